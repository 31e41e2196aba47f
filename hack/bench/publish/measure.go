package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/publish"
)

// edgeClusters get the bundle that few clusters have.
const edgeClusters = 50

// published is what one run of pinnace publish did and cost.
type published struct {
	publish.Result
	seconds, peakMiB float64
	requests, puts   int64
	// own and registry are seconds of processor time, of the publish and of the registry.
	own, registry float64
}

// publish runs the program on a fleet repository, as people do.
func (b *bench) publish(ctx context.Context, to *counted, fleet string) (published, error) {
	out := published{}
	to.reset()
	cmd := b.command(ctx, "publish", "--quiet", "--fleet", fleet, "--registry", to.addr+"/bench", "--plain-http", "--key", "cosign.key", "-o", "json")
	started, used := time.Now(), processorTime()
	data, peak, err := outputAndPeak(cmd)
	out.peakMiB, out.seconds, out.registry = peak, time.Since(started).Seconds(), processorTime()-used
	if cmd.ProcessState != nil {
		out.own = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	out.requests, out.puts = to.requests.Load(), to.puts.Load()
	if err != nil {
		return out, fmt.Errorf("pinnace publish: %w", err)
	}
	fmt.Fprintf(os.Stderr, "published %s: %.2f s (processor: %.1f s, and the registry's %.1f s), %.0f MiB, %d requests, %d of them PUT\n",
		filepath.Base(fleet), out.seconds, out.own, out.registry, out.peakMiB, out.requests, out.puts)
	return out, json.Unmarshal(data, &out.Result)
}

func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.pinnace, args...)
	cmd.Dir, cmd.Stderr = b.dir, os.Stderr
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=bench", "HOME="+b.dir, "XDG_CACHE_HOME="+filepath.Join(b.dir, ".cache"))
	return cmd
}

func (b *bench) makeKey(ctx context.Context) error {
	return b.command(ctx, "keys", "generate", "--quiet").Run()
}

// small is a first publish of a size that other tools' benchmarks reach.
func (b *bench) small(ctx context.Context) error {
	dir := filepath.Join(b.dir, "small")
	if err := (fleet{clusters: 1000, bundles: 50, payload: 10 << 10, plain: true}).write(dir); err != nil {
		return err
	}
	to, err := b.registry("small")
	if err != nil {
		return err
	}
	first, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	figures.Report("publish_1000x50_seconds", first.seconds, "s")
	return to.discard()
}

// large publishes 5,000 clusters × 150 bundles, and then what most publishes are: little or nothing changed.
func (b *bench) large(ctx context.Context) error {
	dir := filepath.Join(b.dir, "large")
	f := fleet{clusters: 5000, bundles: 150, payload: 10 << 10}
	if err := f.write(dir); err != nil {
		return err
	}
	if err := writeEdge(dir, 0); err != nil {
		return err
	}
	to, err := b.registry("large")
	if err != nil {
		return err
	}
	first, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	figures.Report("publish_first_seconds", first.seconds, "s")
	figures.Report("publish_first_peak_mib", first.peakMiB, "MiB")

	same, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	if same.Changed() {
		return fmt.Errorf("the same input changed something")
	}
	figures.Report("publish_unchanged_seconds", same.seconds, "s")
	figures.Report("publish_unchanged_puts", float64(same.puts), "requests")
	figures.Report("publish_unchanged_requests", float64(same.requests), "requests")

	if err := writeEdge(dir, 1); err != nil {
		return err
	}
	few, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	if n := changed(few); n != edgeClusters {
		return fmt.Errorf("%d targets changed, want %d", n, edgeClusters)
	}
	figures.Report("publish_one_for_50_seconds", few.seconds, "s")

	before, err := readPushes(ctx, to.addr, f.clusters, "gen-1")
	if err != nil {
		return err
	}
	if err := f.change(dir, 1, 1); err != nil {
		return err
	}
	all, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	if n := changed(all); n != f.clusters {
		return fmt.Errorf("%d targets changed, want %d", n, f.clusters)
	}
	figures.Report("publish_one_for_all_seconds", all.seconds, "s")
	if err := b.pushRate(ctx, to, before, all); err != nil {
		return err
	}
	return to.discard()
}

// writeEdge makes a version of the bundle that few clusters have.
func writeEdge(dir string, version int) error {
	if err := write(filepath.Join(dir, "bundles/edge/pinnace.yaml"), `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
spec: {targets: [{clusterSelector: {matchLabels: {group: g0}}}]}
`); err != nil {
		return err
	}
	return write(filepath.Join(dir, "bundles/edge/config.yaml"), configMap(9999, version, 10<<10))
}

func changed(p published) int {
	n := 0
	for _, t := range p.Targets {
		if t.Action == "changed" {
			n++
		}
	}
	return n
}

// variants shows that a publish renders once for each variant, not for each cluster.
func (b *bench) variants(ctx context.Context) error {
	dir := filepath.Join(b.dir, "variants")
	if err := (fleet{clusters: 5000}).write(dir); err != nil {
		return err
	}
	bundle := "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec:\n  overrides:\n"
	for v := range variantsOfBundle {
		overlay := fmt.Sprintf("overlays/v%d", v)
		bundle += fmt.Sprintf("    - {when: {clusterSelector: {matchLabels: {variant: v%d}}}, kustomize: {path: %s}}\n", v, overlay)
		if err := write(filepath.Join(dir, "bundles/app", overlay, "kustomization.yaml"),
			fmt.Sprintf("resources: [../../base]\nnamePrefix: v%d-\n", v)); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"pinnace.yaml":            bundle,
		"kustomization.yaml":      "resources: [base]\n",
		"base/kustomization.yaml": "resources: [config.yaml]\n",
		"base/config.yaml":        configMap(1, 0, 10<<10),
	} {
		if err := write(filepath.Join(dir, "bundles/app", name), content); err != nil {
			return err
		}
	}
	to, err := b.registry("variants")
	if err != nil {
		return err
	}
	result, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	figures.Report("renders_for_12_variants", float64(result.Renders), "renders")
	return to.discard()
}
