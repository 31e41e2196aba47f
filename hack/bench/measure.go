package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// Sizes of the measurements.
const (
	changes      = 20
	idleInterval = 2 * time.Second
	idleWindow   = time.Minute
	pollInterval = 5 * time.Second
)

type bench struct {
	site *harness.Site
	edge *harness.Cluster

	registry *harness.Counted
	fleet    *harness.Fleet
	hook     string // where the agent of the last measurement listens
}

// publish measures a first publish and one of the same again.
func (b *bench) publish(ctx context.Context) error {
	var err error
	if b.hook, err = b.site.Loopback(); err != nil {
		return err
	}
	registry, err := b.site.NewRegistry(ctx, "registry", "--notify", "http://"+b.hook+harness.WebhookPath)
	if err != nil {
		return err
	}
	if b.registry, err = registry.Count(ctx); err != nil {
		return err
	}
	if b.fleet, err = b.site.NewFleet(ctx, b.registry.Addr); err != nil {
		return err
	}
	for _, name := range []string{"cold", "unchanged"} {
		b.registry.Reset()
		started := time.Now()
		if _, err := b.fleet.Publish(ctx); err != nil {
			return err
		}
		figures.Report("publish_"+name+"_seconds", time.Since(started).Seconds(), "s")
		figures.Report("publish_"+name+"_requests", float64(b.registry.Count(registrytest.Match{})), "requests")
		figures.Report("publish_"+name+"_puts", float64(b.registry.Count(registrytest.Match{Method: http.MethodPut})), "requests")
	}
	return nil
}

// idle measures what an agent costs that has nothing to do.
func (b *bench) idle(ctx context.Context) error {
	writes, err := b.edge.CountWrites(ctx)
	if err != nil {
		return err
	}
	agent, err := b.site.NewAgent(b.fleet, b.edge, harness.AgentOptions{
		Interval: idleInterval,
		Change:   func(config *v1alpha1.AgentConfig) { config.Spec.Kubeconfig = writes.Kubeconfig },
	})
	if err != nil {
		return err
	}
	if err := b.ready(ctx, agent); err != nil {
		return err
	}
	if err := wait(ctx, 5*idleInterval); err != nil { // for what follows the last change
		return err
	}
	b.registry.Reset()
	before := writes.Count()
	if err := wait(ctx, idleWindow); err != nil {
		return err
	}
	polls := b.registry.Count(registrytest.Match{Method: http.MethodHead, Kind: registrytest.KindManifest, Reference: v1alpha1.TagCurrent})
	if polls == 0 {
		return errors.New("the agent did not poll")
	}
	figures.Report("agent_requests_per_poll", float64(b.registry.Count(registrytest.Match{}))/float64(polls), "requests")
	figures.Report("agent_api_writes_per_minute", float64(writes.Count()-before)/idleWindow.Minutes(), "requests")
	rss, err := residentMiB(agent.PID())
	if err != nil {
		return err
	}
	figures.Report("agent_rss_mib", rss, "MiB")
	return errors.Join(agent.Stop(), writes.Close())
}

// poll measures from the push of current to the change on the cluster, by polling.
func (b *bench) poll(ctx context.Context) error {
	agent, err := b.site.NewAgent(b.fleet, b.edge, harness.AgentOptions{Interval: pollInterval})
	if err != nil {
		return err
	}
	return b.latency(ctx, "poll", agent, pollInterval)
}

// webhook measures the same with notifications of the registry.
func (b *bench) webhook(ctx context.Context) error {
	agent, err := b.site.NewAgent(b.fleet, b.edge, harness.AgentOptions{Interval: time.Hour, Webhook: b.hook})
	if err != nil {
		return err
	}
	return b.latency(ctx, "webhook", agent, 0)
}

func (b *bench) ready(ctx context.Context, agent *harness.Agent) error {
	if err := agent.Start(); err != nil {
		return err
	}
	return b.edge.WaitReady(ctx, harness.ExampleBundles[cluster]...)
}

// latency publishes changes, each after a random part of the interval, and reports percentiles.
func (b *bench) latency(ctx context.Context, name string, agent *harness.Agent, interval time.Duration) error {
	if err := b.ready(ctx, agent); err != nil {
		return err
	}
	var took []time.Duration
	for i := range changes {
		if interval > 0 {
			if err := wait(ctx, rand.N(interval)); err != nil {
				return err
			}
		}
		d, err := b.change(ctx, fmt.Sprintf("%s-%d", name, i))
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	for _, percentile := range []int{50, 95} {
		at := took[(len(took)*percentile+99)/100-1]
		figures.Report(fmt.Sprintf("%s_to_applied_p%d_ms", name, percentile), float64(at.Microseconds())/1000, "ms")
	}
	return agent.Stop()
}

// change changes one manifest and returns the time from the push of the cluster's current tag to the cluster's change.
func (b *bench) change(ctx context.Context, marker string) (time.Duration, error) {
	watching, err := client.NewWithWatch(b.edge.Config(), client.Options{Scheme: b.edge.Client.Scheme()})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	events, err := watching.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace("sensors"))
	if err != nil {
		return 0, err
	}
	defer events.Stop()
	applied := make(chan time.Time, 1)
	go func() {
		for event := range events.ResultChan() {
			if config, ok := event.Object.(*corev1.ConfigMap); ok && config.Data["marker"] == marker {
				applied <- time.Now()
				return
			}
		}
	}()
	if err := b.fleet.Write("bundles/sensors/marker.yaml",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: marker}\ndata: {marker: "+marker+"}\n"); err != nil {
		return 0, err
	}
	if err := b.fleet.Commit(ctx, marker); err != nil {
		return 0, err
	}
	b.registry.Reset()
	if _, err := b.fleet.Publish(ctx); err != nil {
		return 0, err
	}
	pushes := b.registry.Requests(registrytest.Match{
		Method: http.MethodPut, Kind: registrytest.KindManifest, Reference: v1alpha1.TagCurrent,
		Repository: b.fleet.Path() + "/" + v1alpha1.TargetRepository(cluster),
	})
	if len(pushes) != 1 {
		return 0, fmt.Errorf("current was pushed %d times, want once", len(pushes))
	}
	select {
	case at := <-applied:
		return at.Sub(pushes[0].At), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s was not applied: %w", marker, ctx.Err())
	}
}

// residentMiB reads a process's resident memory.
func residentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory is measured on Linux only: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc says nothing of the memory")
}

// wait lets time pass: rates need it.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
