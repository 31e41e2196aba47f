package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"pinnace.dev/pinnace/examples"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/internal/demo"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/status"
)

// heartbeat of the fleet's agents, as it is by default.
const heartbeat = 15 * time.Minute

// fleet is what is measured.
type fleet struct {
	*demo.Demo
	site     *site
	meter    *meter
	interval time.Duration
	// visible is when the newest publication's first target became current, in Unix nanoseconds: until then no agent can
	// know of it.
	visible atomic.Int64
}

func measure(ctx context.Context, agents int, interval time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "pinnace-bench-fleet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	site, err := startSite(ctx, filepath.Join(dir, "registry"))
	if err != nil {
		return err
	}
	defer site.close()
	meter := newMeter()
	d, err := demo.New(demo.Options{
		Clusters: agents, Dir: filepath.Join(dir, "demo"), RegistryAddr: site.proxy, Interval: interval, Heartbeat: heartbeat,
		Strategy: "\n", Spread: interval, Watch: meter.watch, Sign: meter.sign, Version: "bench",
	})
	if err != nil {
		return err
	}
	site.hint = func(cluster string) {
		if one := d.Agent(cluster); one != nil {
			one.Hint()
		}
	}
	f := &fleet{Demo: d, site: site, meter: meter, interval: interval}
	d.Progress = func(event publish.Event) {
		if event.Stage == "finish" {
			f.visible.CompareAndSwap(0, time.Now().UnixNano())
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	if _, err := f.publish(ctx); err != nil {
		return err
	}
	go func() { ended <- d.RunAgents(ctx) }()
	err = f.figures(ctx, agents)
	cancel()
	return errors.Join(err, <-ended)
}

func (f *fleet) figures(ctx context.Context, agents int) error {
	progress("%d agents take their first target", agents)
	if err := f.await(ctx); err != nil {
		return err
	}
	figures.Report("simulated_agents", float64(agents), "agents")
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
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// publish publishes, and tells the meter which digests to wait for.
func (f *fleet) publish(ctx context.Context) (time.Duration, error) {
	started := time.Now()
	f.visible.Store(0)
	if _, err := f.Publish(ctx); err != nil {
		return 0, err
	}
	took := time.Since(started)
	index, _, err := publish.ReadIndex(ctx, f.Registry, f.Verifier)
	if err != nil {
		return took, err
	}
	f.meter.expect(index, time.Unix(0, f.visible.Load()))
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
	heads, bytes := f.meter.heads.Load(), f.site.bytes.Load()
	cpu, started := f.site.cpu(), time.Now()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.interval):
	}
	took := time.Since(started).Seconds()
	polls := float64(f.meter.heads.Load() - heads)
	perPoll := float64(f.site.bytes.Load()-bytes) / polls
	figures.Report("head_per_second", polls/took, "1/s")
	figures.Report("registry_cpu_percent", 100*(f.site.cpu()-cpu)/took, "%")
	report, err := f.reportBytes(ctx)
	if err != nil {
		return err
	}
	const day = 24 * time.Hour
	figures.Report("bytes_per_poll", perPoll, "bytes")
	figures.Report("bytes_per_report", report, "bytes")
	figures.Report("bytes_per_cluster_day", perPoll*float64(day/f.interval)+report*float64(day/heartbeat), "bytes")
	return nil
}

// reportBytes measures what sending a report costs: one agent more, which does nothing else.
func (f *fleet) reportBytes(ctx context.Context) (float64, error) {
	before, sent := f.site.bytes.Load(), f.meter.reports.Load()
	const times = 20
	for range times {
		if err := f.meter.resend(ctx, f.Registry, f.Agents[0].Name); err != nil {
			return 0, err
		}
	}
	return float64(f.site.bytes.Load()-before) / float64(f.meter.reports.Load()-sent), nil
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
	if err := f.await(ctx); err != nil {
		return err
	}
	times := f.meter.times()
	figures.Report("publish_to_all_"+way+"_p50_seconds", figures.Percentile(times, 50), "s")
	figures.Report("publish_to_all_"+way+"_p99_seconds", figures.Percentile(times, 99), "s")
	if way == "poll" {
		figures.Report("publish_seconds", took.Seconds(), "s")
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
	index, _, err := publish.ReadIndex(ctx, f.Registry, f.Verifier)
	if err != nil {
		return err
	}
	path := filepath.Join(f.Dir, "status.gob")
	read := func(name string) error {
		before := f.meter.requests.Load()
		started := time.Now()
		reader := status.Reader{Registry: f.meter.watch(f.Registry), Cache: status.OpenCache(path)}
		reports, err := reader.Read(ctx, index)
		if err != nil {
			return err
		}
		summary := status.Summarise(index, status.JudgeAll(index, reports, status.Options{Now: time.Now()}))
		took := time.Since(started)
		if len(summary.Clusters) != agents {
			return fmt.Errorf("status tells of %d clusters", len(summary.Clusters))
		}
		figures.Report("status_"+name+"_seconds", took.Seconds(), "s")
		figures.Report("status_"+name+"_requests", float64(f.meter.requests.Load()-before), "requests")
		return reader.Cache.Save()
	}
	// Agents that poll meanwhile are counted apart: requests are those of the reader's own registry.
	progress("the status is read")
	if err := read("cold"); err != nil {
		return err
	}
	for _, one := range f.Agents[:max(1, agents/100)] {
		if err := f.meter.resend(ctx, f.Registry, one.Name); err != nil {
			return err
		}
	}
	return read("warm")
}

// wave measures what it takes to let a wave in.
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
	progress("a wave is let in")
	if _, err := f.Publish(ctx); err != nil {
		return err
	}
	index, _, err := publish.ReadIndex(ctx, f.Registry, f.Verifier)
	if err != nil {
		return err
	}
	reader := status.Reader{Registry: f.Registry, Cache: status.OpenCache(filepath.Join(f.Dir, "status.gob"))}
	reports, err := reader.Read(ctx, index)
	if err != nil {
		return err
	}
	before, started := f.meter.manifests.Load(), time.Now()
	result, err := gates.Step(ctx, "fleet", gates.Options{
		Registry: f.meter.watch(f.Registry), Verifier: f.Verifier, Signer: f.Signer, Index: index, Reports: reports, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	if result.Gate.OpenBucket == 0 && result.Gate.OpenWave == 0 {
		return fmt.Errorf("the gate lets nobody in: %s", result.Gate.Phase)
	}
	figures.Report("wave_advance_writes", float64(f.meter.manifests.Load()-before), "manifests")
	figures.Report("wave_advance_seconds", time.Since(started).Seconds(), "s")
	return nil
}
