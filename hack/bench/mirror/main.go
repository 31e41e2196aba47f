// Command mirror measures mirroring on a made-up closure of about 2 GiB: 40 images of two platforms that share layers,
// and 150 bundles. Registries and pinnace run as processes of their own; a proxy before each registry counts requests
// and adds latency. It prints "name value unit" lines, and progress on stderr. Arguments choose parts: plan, sync, media,
// stops; all without.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
)

const mib = 1 << 20

// closure is what is mirrored: 40 × 2 layers of their own and 8 shared ones of 20 MiB, and 150 bundles of 2 MiB.
var closure = mirrortest.Fleet{
	Clusters: 2, Bundles: 150, BundleBytes: 2 * mib, Images: 40, Layers: 1, LayerBytes: 20 * mib,
}

// latency is what the proxies add to every answer.
const latency = 50 * time.Millisecond

func main() { figures.Main(run) }

func run(ctx context.Context, args []string) (err error) {
	bin := os.Getenv("PINNACE_BIN")
	if bin == "" {
		return errors.New("PINNACE_BIN is not set; run: make bench-mirror")
	}
	dir, err := os.MkdirTemp("", "pinnace-bench-mirror-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	b := &bench{program: filepath.Join(bin, "pinnace"), dir: dir, fleet: closure}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, step := range []struct {
		what, part string
		do         func(context.Context) error
	}{
		{"make the closure", "", b.prepare},
		{"plan", "plan", b.plan},
		{"sync without latency", "sync", func(ctx context.Context) error { return b.compare(ctx, 0, "sync_ratio_0ms") }},
		{"sync of nothing", "sync", b.noop},
		{"sync with latency", "sync", func(ctx context.Context) error { return b.compare(ctx, latency, "sync_ratio_50ms") }},
		{"export, import, kill", "media", b.media},
		{"delta", "media", b.delta},
		{"stops", "stops", b.stops},
	} {
		if len(args) > 0 && step.part != "" && !slices.Contains(args, step.part) {
			continue
		}
		started := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		note("%s: %.1f s", step.what, time.Since(started).Seconds())
	}
	figures.Report("peak_rss_mib", float64(b.peak)/mib, "MiB")
	return nil
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "# "+format+"\n", args...) }
