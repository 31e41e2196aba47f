package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/examples"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/internal/demo"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/status"
)

// heartbeat of the fleet's agents, as it is by default.
const heartbeat = 15 * time.Minute

// fleet is what is measured.
type fleet struct {
	*demo.Demo
	table
	site     *site
	meter    *meter
	interval time.Duration
	// reader is the registry through the other door: of whoever reads the status and steps a rollout.
	reader oci.Registry
}

func measure(ctx context.Context, agents int, interval time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "pinnace-bench-fleet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	meter := newMeter()
	site, err := startSite(ctx, filepath.Join(dir, "registry"), meter.stored)
	if err != nil {
		return err
	}
	defer site.close()
	d, err := demo.New(demo.Options{
		Clusters: agents, Dir: filepath.Join(dir, "demo"), RegistryAddr: site.agents.addr, Interval: interval, Heartbeat: heartbeat,
		Strategy: "\n", Spread: interval, Sign: meter.sign, Version: "bench",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	site.hint = func(cluster string) {
		if one := d.Agent(cluster); one != nil {
			one.Hint()
		}
	}
	f := &fleet{Demo: d, site: site, meter: meter, interval: interval}
	if f.reader, err = oci.Open(strings.Replace(d.Prefix, site.agents.addr, site.other.addr, 1), oci.Options{PlainHTTP: true}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	progress("%d targets are published for the first time", agents)
	if _, err := f.publish(ctx); err != nil {
		return err
	}
	go func() { ended <- d.RunAgents(ctx) }()
	err = f.figures(ctx, agents)
	cancel()
	err = errors.Join(err, <-ended)
	if err == nil {
		err = f.print(os.Stderr)
	}
	return err
}

func (f *fleet) figures(ctx context.Context, agents int) error {
	progress("%d agents take their first target", agents)
	if err := f.await(ctx); err != nil {
		return err
	}
	f.report("simulated_agents", float64(agents), "agents", "in one process, with the real sync code; only what they apply is applied to memory")
	if err := f.idle(ctx); err != nil {
		return err
	}
	for _, way := range []string{"poll", "notify"} {
		f.site.notify.Store(way == "notify")
		if err := f.spread(ctx, way); err != nil {
			return err
		}
	}
	f.site.notify.Store(false)
	if err := f.status(ctx, agents); err != nil {
		return err
	}
	return f.wave(ctx)
}

// progress speaks to people.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// publish publishes, and tells the meter which digests to wait for.
func (f *fleet) publish(ctx context.Context) (time.Duration, error) {
	f.meter.begin()
	started := time.Now()
	if _, err := f.Publish(ctx); err != nil {
		return 0, err
	}
	took := time.Since(started)
	index, _, err := publish.ReadIndex(ctx, f.reader, f.Verifier)
	if err != nil {
		return took, err
	}
	f.meter.expect(index)
	return took, nil
}

// await waits until every agent reported the newest target, ready.
func (f *fleet) await(ctx context.Context) error {
	deadline := time.Now().Add(10*time.Minute + 3*f.interval)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := f.meter.missing()
		if missing == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d agents did not report the newest target", missing)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// idle measures one interval in which nothing happens but polls, and what a report costs.
func (f *fleet) idle(ctx context.Context) error {
	progress("nothing happens for %s", f.interval)
	agents := f.site.agents
	heads, bytes, requests := agents.heads.Load(), agents.bytes.Load(), agents.requests.Load()
	cpu, started := f.site.cpu(), time.Now()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.interval):
	}
	took := time.Since(started).Seconds()
	polls := float64(agents.heads.Load() - heads)
	if other := agents.requests.Load() - requests - int64(polls); other > 0 {
		progress("%d requests were no polls: heartbeats", other)
	}
	perPoll := float64(agents.bytes.Load()-bytes) / polls
	f.report("head_per_second", polls/took, "1/s", fmt.Sprintf("polls, one each %s of every agent; nothing else is asked while nothing changes", f.interval))
	f.report("registry_cpu_percent", 100*(f.site.cpu()-cpu)/took, "%", "of one core, by the registry's process, for these polls")
	report, err := f.reportBytes(ctx)
	if err != nil {
		return err
	}
	const day = 24 * time.Hour
	f.report("bytes_per_poll", perPoll, "bytes", "both ways, with the headers of HTTP, without TLS")
	f.report("bytes_per_report", report, "bytes", "the same for a status report, its upload and the removal of the one before")
	f.report("bytes_per_cluster_day", perPoll*float64(day/f.interval)+report*float64(day/heartbeat), "bytes",
		fmt.Sprintf("%d polls and %d reports, the heartbeat's; without what changes bring", day/f.interval, day/heartbeat))
	return nil
}

// reportBytes measures what sending a report costs, through the door that nobody else uses now.
func (f *fleet) reportBytes(ctx context.Context) (float64, error) {
	const times = 20
	before := f.site.other.bytes.Load()
	for range times {
		if err := f.resend(ctx, f.reader, f.Agents[0].Name); err != nil {
			return 0, err
		}
	}
	return float64(f.site.other.bytes.Load()-before) / times, nil
}

// resend sends a cluster's newest report again, signed anew, as an agent does: it removes the one before.
func (f *fleet) resend(ctx context.Context, registry oci.Registry, cluster string) error {
	envelope, err := f.meter.again(ctx, cluster)
	if err != nil {
		return err
	}
	known, err := f.Registry.Repository(v1alpha1.StatusRepository(cluster))
	if err != nil {
		return err
	}
	before, err := known.Resolve(ctx, v1alpha1.TagCurrent) // the agent remembers it
	if err != nil {
		return err
	}
	repo, err := registry.Repository(v1alpha1.StatusRepository(cluster))
	if err != nil {
		return err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}}}
	if _, _, err := oci.Push(ctx, repo, artifact, v1alpha1.TagCurrent); err != nil {
		return err
	}
	return repo.Delete(ctx, before)
}

// spread changes a bundle that everybody has and measures how long it takes to run everywhere.
func (f *fleet) spread(ctx context.Context, way string) error {
	progress("a change for everybody, by %s", way)
	if err := f.change(way); err != nil {
		return err
	}
	took, err := f.publish(ctx)
	if err != nil {
		return err
	}
	progress("published in %s; %d clusters have not reported it yet", took.Round(time.Millisecond), f.meter.missing())
	if err := f.await(ctx); err != nil {
		return err
	}
	sinceFirst, sinceOwn := f.meter.times()
	for _, p := range []int{50, 99} {
		f.report(fmt.Sprintf("publish_to_all_%s_p%d_seconds", way, p), figures.Percentile(sinceFirst, p), "s",
			"from when the publish moved the first cluster's tag to the report that says ready")
		f.report(fmt.Sprintf("tag_to_report_%s_p%d_seconds", way, p), figures.Percentile(sinceOwn, p), "s",
			"the same from when the cluster's own tag was moved")
	}
	if way == "poll" {
		f.report("publish_seconds", took.Seconds(), "s", "the publish itself, of which nothing is seen before its last part")
	}
	return nil
}

// change gives a bundle another content.
func (f *fleet) change(text string) error {
	path := filepath.Join(f.Fleet, "bundles", "clock", "deployment.yaml")
	data, err := fs.ReadFile(examples.Fleet(), "bundles/clock/deployment.yaml")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), "name: clock\n", "name: clock\n  annotations: {bench/change: "+text+"}\n", 1)), 0o644)
}

// status measures reading everybody's report, and reading again when one in a hundred changed.
func (f *fleet) status(ctx context.Context, agents int) error {
	index, _, err := publish.ReadIndex(ctx, f.reader, f.Verifier)
	if err != nil {
		return err
	}
	read := func(name, what string) error {
		before, started := f.site.other.requests.Load(), time.Now()
		reader := status.Reader{Registry: f.reader, Cache: status.OpenCache(f.statusCache())}
		reports, err := reader.Read(ctx, index)
		if err != nil {
			return err
		}
		summary := status.Summarise(index, status.JudgeAll(index, reports, status.Options{Now: time.Now()}))
		took := time.Since(started)
		if len(summary.Clusters) != agents || !summary.Ready {
			return fmt.Errorf("the status tells: %s", summary.Verdict)
		}
		f.report("status_"+name+"_seconds", took.Seconds(), "s", what)
		f.report("status_"+name+"_requests", float64(f.site.other.requests.Load()-before), "requests", "for that")
		return reader.Cache.Save()
	}
	progress("the status is read")
	if err := read("cold", "reading, verifying and judging every cluster's report, agents polling meanwhile"); err != nil {
		return err
	}
	changed := max(1, agents/100)
	for _, one := range f.Agents[:changed] {
		if err := f.resend(ctx, f.Registry, one.Name); err != nil {
			return err
		}
	}
	return read("warm", fmt.Sprintf("the same again, after %d reports changed", changed))
}

func (f *fleet) statusCache() string { return filepath.Join(f.Dir, "status.gob") }

// wave measures what it takes to let a wave in that is the whole fleet.
func (f *fleet) wave(ctx context.Context) error {
	path := filepath.Join(f.Fleet, "pinnace.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	strategy := "  rollout:\n    maxUnavailable: 100%\n"
	if err := os.WriteFile(path, append(data, strategy...), 0o644); err != nil {
		return err
	}
	if err := f.change("wave"); err != nil {
		return err
	}
	progress("a change is announced to everybody, and a wave let in")
	if _, err := f.Publish(ctx); err != nil {
		return err
	}
	index, _, err := publish.ReadIndex(ctx, f.reader, f.Verifier)
	if err != nil {
		return err
	}
	reader := status.Reader{Registry: f.reader, Cache: status.OpenCache(f.statusCache())}
	reports, err := reader.Read(ctx, index)
	if err != nil {
		return err
	}
	before, started := f.site.other.writes.Load(), time.Now()
	result, err := gates.Step(ctx, "fleet", gates.Options{
		Registry: f.reader, Verifier: f.Verifier, Signer: f.Signer, Index: index, Reports: reports, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	took := time.Since(started)
	let := 0
	for _, cluster := range index.Clusters {
		for _, announced := range cluster.Rollouts {
			if result.Gate.Open(announced.Wave, announced.Bucket) {
				let++
			}
		}
	}
	if let < len(index.Clusters) {
		return fmt.Errorf("the gate lets %d clusters in: %s", let, result.Gate.Phase)
	}
	f.report("wave_advance_writes", float64(f.site.other.writes.Load()-before), "manifests",
		fmt.Sprintf("one gate with its signature and tags, which lets all %d clusters in", let))
	f.report("wave_advance_seconds", took.Seconds(), "s", "deciding and writing it, reports being read")
	return nil
}
