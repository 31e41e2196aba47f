package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/hack/bench/figures"
)

// Sizes of the measurements on 50 bundles.
const (
	idleInterval = 5 * time.Second
	idleWindow   = time.Minute
	settle       = 15 * time.Second
	repairs      = 60
)

// fifty measures an agent with 50 bundles of 10 objects.
func (b *bench) fifty(ctx context.Context) error {
	edge, err := b.site.NewCluster(ctx, fiftyCluster)
	if err != nil {
		return err
	}
	defer edge.Stop()
	server, err := edge.Replica(ctx)
	if err != nil {
		return err
	}
	agent, err := b.site.NewAgent(b.fleet, edge, harness.AgentOptions{
		Interval: idleInterval,
		Change:   func(config *v1alpha1.AgentConfig) { config.Spec.Kubeconfig = server.Kubeconfig },
	})
	if err != nil {
		return err
	}
	f := &fiftyRun{bench: b, edge: edge, server: server, agent: agent}
	for _, step := range []func(context.Context) error{f.baseline, f.start, f.idle, f.drift, f.change, f.offline} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return agent.Stop()
}

type fiftyRun struct {
	*bench
	edge   *harness.Cluster
	server *controlplane.Replica
	agent  *harness.Agent

	alone requests // in idleWindow, of the API server itself
}

// baseline measures what the API server asks itself.
func (f *fiftyRun) baseline(ctx context.Context) error {
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	var err error
	f.alone, err = f.during(ctx, idleWindow)
	return err
}

// during returns what the agent's API server served while time passed.
func (f *fiftyRun) during(ctx context.Context, d time.Duration) (requests, error) {
	before, err := requestsOf(ctx, f.server)
	if err != nil {
		return requests{}, err
	}
	if err := sleep(ctx, d); err != nil {
		return requests{}, err
	}
	after, err := requestsOf(ctx, f.server)
	return after.minus(before), err
}

// start measures the way from nothing to all ready.
func (f *fiftyRun) start(ctx context.Context) error {
	before, err := requestsOf(ctx, f.server)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := f.agent.Start(); err != nil {
		return err
	}
	at, err := allReady(ctx, f.edge, fiftyBundles)
	if err != nil {
		return err
	}
	took := at.Sub(started)
	figures.Report("apply_50x10_seconds", took.Seconds(), "s")
	if err := sleep(ctx, settle); err != nil { // what follows the last change belongs to it
		return err
	}
	after, err := requestsOf(ctx, f.server)
	if err != nil {
		return err
	}
	used := after.minus(before)
	own := f.alone.all * float64(time.Since(started)) / float64(idleWindow)
	figures.Report("apply_50x10_api_requests", used.all-own, "requests")
	explain("apply_50x10_api_requests", used)
	return nil
}

// explain shows on standard error what a count is made of.
func explain(name string, of requests) {
	for _, by := range slices.SortedFunc(maps.Keys(of.by), func(a, b string) int { return int(of.by[b] - of.by[a]) }) {
		fmt.Fprintf(os.Stderr, "  %s: %g %s\n", name, of.by[by], by)
	}
}

// idle measures a minute in which nothing happens.
func (f *fiftyRun) idle(ctx context.Context) error {
	f.meter.reset()
	cpu, err := cpuOf(f.agent.PID())
	if err != nil {
		return err
	}
	used, err := f.during(ctx, idleWindow)
	if err != nil {
		return err
	}
	polls := f.meter.polls.Load()
	if polls == 0 {
		return errors.New("the agent did not poll")
	}
	after, err := cpuOf(f.agent.PID())
	if err != nil {
		return err
	}
	memory, err := memoryOf(f.agent.PID())
	if err != nil {
		return err
	}
	own := used.minus(f.alone)
	figures.Report("idle_registry_requests_per_poll", float64(f.meter.requests.Load())/float64(polls), "requests")
	figures.Report("idle_api_requests_per_minute", own.all, "requests")
	figures.Report("idle_api_writes_per_minute", own.writes, "requests")
	explain("idle_api_requests_per_minute", own)
	figures.Report("idle_cpu_ms_per_minute", float64((after - cpu).Milliseconds()), "ms")
	figures.Report("idle_rss_mib", memory.rss, "MiB")
	figures.Report("idle_anon_mib", memory.anon, "MiB")
	figures.Report("peak_rss_mib", memory.peak, "MiB")
	return nil
}

// change measures what comes over the link for one changed line in one of 50 bundles.
func (f *fiftyRun) change(ctx context.Context) error {
	const name = "fifty-25"
	if err := f.fleet.Replace(manifest(name), "greeting: hello", "greeting: goodbye"); err != nil {
		return err
	}
	f.meter.reset()
	seen := make(chan error, 1)
	go func() {
		seen <- f.until(ctx, object{"ConfigMap", name, name}, func(data map[string]any) bool { return greeting(data) == "goodbye" }, nil)
	}()
	// The publish goes to the registry itself, past the meter.
	if err := f.fleet.Commit(ctx, "goodbye"); err != nil {
		return err
	}
	if _, err := f.fleet.PublishTo(ctx, f.registry.Addr+"/"+f.fleet.Path()); err != nil {
		return err
	}
	if err := <-seen; err != nil {
		return err
	}
	figures.Report("change_one_of_50_bytes", float64(f.meter.bytes.Load()), "bytes")
	figures.Report("change_one_of_50_requests", float64(f.meter.requests.Load()), "requests")
	return nil
}
