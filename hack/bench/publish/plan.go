package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target"
)

// childPlan is the argument of the process that plans: its memory is measured, so it does nothing else.
const childPlan = "plan-child"

// plan measures reading a fleet and computing every target, without building or a registry.
func (b *bench) plan(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, clusters := range []int{500, 1000, 2000, 5000, 10_000} {
		dir := filepath.Join(b.dir, fmt.Sprintf("plan-%d", clusters))
		if err := (fleet{clusters: clusters, bundles: 150, payload: 1 << 10}).write(dir); err != nil {
			return err
		}
		child := exec.CommandContext(ctx, self, childPlan, dir)
		child.Stderr = os.Stderr
		out, peak, err := outputAndPeak(child)
		if err != nil {
			return err
		}
		seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			return err
		}
		figures.Report(fmt.Sprintf("plan_%d_seconds", clusters), seconds, "s")
		if clusters == 5000 {
			figures.Report("plan_5000_peak_mib", peak, "MiB")
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// runPlan prints the seconds from the files to the last target's content.
func runPlan(ctx context.Context, dir string) error {
	started := time.Now()
	loaded, err := publish.Load(ctx, publish.LoadOptions{Fleet: dir, CacheDir: filepath.Join(dir, ".cache")})
	if err != nil {
		return err
	}
	built := target.Artifact{Digest: "sha256:" + strings.Repeat("a", 64), LayerDigest: "sha256:" + strings.Repeat("b", 64), Method: "release"}
	var bundles atomic.Int64
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range loaded.Fleet.Clusters {
		group.Go(func() error {
			plan, err := loaded.Fleet.PlanCluster(i)
			if err != nil {
				return err
			}
			next := loaded.Fleet.Assemble(plan, func(target.Assignment) target.Artifact { return built })
			sketch := loaded.Fleet.Sketch(plan, next)
			if sketch == (target.Sketch{}) {
				return fmt.Errorf("cluster %s: no content", next.Cluster)
			}
			bundles.Add(int64(len(next.Bundles)))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if want := int64(len(loaded.Fleet.Clusters) * len(loaded.Fleet.Bundles)); bundles.Load() != want {
		return fmt.Errorf("%d bundles on all clusters, want %d", bundles.Load(), want)
	}
	fmt.Println(time.Since(started).Seconds())
	return nil
}
