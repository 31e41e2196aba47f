package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/hack/bench/figures"
)

// podsPerNode is what a node of the harness takes; some belong to nobody.
const podsPerNode = 400

// apps measures how the time to apply grows with the number of bundles.
func (b *bench) apps(ctx context.Context) error {
	for _, wait := range []bool{true, false} {
		if !wait {
			if err := b.publishApps(ctx, false); err != nil {
				return err
			}
		}
		for _, size := range appSizes {
			if err := b.app(ctx, size, wait); err != nil {
				return err
			}
		}
	}
	return nil
}

// app brings bundles of one Deployment to a new cluster.
func (b *bench) app(ctx context.Context, size int, wait bool) error {
	suffix := "wait"
	if !wait {
		suffix = "nowait"
	}
	edge, err := b.site.NewCluster(ctx, appCluster(size)+"-"+suffix)
	if err != nil {
		return err
	}
	defer edge.Stop()
	for node := 1; node*podsPerNode < size; node++ {
		if err := edge.AddNode(ctx, fmt.Sprintf("node-%d", node)); err != nil {
			return err
		}
	}
	agent, err := b.site.NewAgent(b.fleet, edge, harness.AgentOptions{Name: appCluster(size), Interval: idleInterval})
	if err != nil {
		return err
	}
	started := time.Now()
	if err := agent.Start(); err != nil {
		return err
	}
	at, err := allReady(ctx, edge, size)
	if err != nil {
		return errors.Join(err, agent.Stop())
	}
	figures.Report(fmt.Sprintf("apply_%d_%s_seconds", size, suffix), at.Sub(started).Seconds(), "s")
	memory, err := memoryOf(agent.PID())
	if err != nil {
		return err
	}
	figures.Report(fmt.Sprintf("apply_%d_%s_peak_rss_mib", size, suffix), memory.peak, "MiB")
	return agent.Stop()
}
