// Command publish measures publishing at scale on this machine: planning thousands of clusters, and publishing them to
// the embedded registry, beside a bare loop of the same pushes. It prints "name value unit" lines; compare them within
// one run. Arguments choose among plan, small, large, variants and git; everything is measured without any.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"pinnace.dev/pinnace/hack/bench/figures"
)

func main() { figures.Main(run) }

// bench is one run: a folder for everything, and the program that is measured.
type bench struct {
	dir     string
	pinnace string
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == childPlan {
		return runPlan(ctx, args[1])
	}
	bin, err := filepath.Abs(os.Getenv("PINNACE_BIN"))
	if err != nil {
		return err
	}
	b := &bench{pinnace: filepath.Join(bin, "pinnace")}
	if _, err := os.Stat(b.pinnace); err != nil {
		return fmt.Errorf("PINNACE_BIN: %w; build it with make build", err)
	}
	if b.dir, err = os.MkdirTemp("", "bench-publish-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if err := b.makeKey(ctx); err != nil {
		return err
	}
	for _, measure := range []struct {
		name string
		run  func(context.Context) error
	}{{"plan", b.plan}, {"small", b.small}, {"large", b.large}, {"variants", b.variants}, {"git", b.git}} {
		if len(args) > 0 && !slices.Contains(args, measure.name) {
			continue
		}
		if err := measure.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", measure.name, err)
		}
	}
	return nil
}
