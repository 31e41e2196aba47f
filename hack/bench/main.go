// Command bench measures Pinnace on this machine: real control plane, registry, Git server, publish and agent. It
// prints "name value unit" lines; they are figures of one run, to be compared with another run on the same machine.
// Arguments choose among idle, poll and webhook; publish is always measured, and everything without arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/hack/bench/figures"
)

// cluster is the one of the example fleet that is measured.
const cluster = "factory-01"

func main() { figures.Main(run) }

func run(ctx context.Context, chosen []string) (err error) {
	site, err := harness.Start(ctx, harness.Options{Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	edge, err := site.NewCluster(ctx, cluster)
	if err != nil {
		return err
	}
	b := &bench{site: site, edge: edge}
	for _, measure := range []struct {
		name string
		run  func(context.Context) error
	}{{"publish", b.publish}, {"idle", b.idle}, {"poll", b.poll}, {"webhook", b.webhook}} {
		if measure.name != "publish" && len(chosen) > 0 && !slices.Contains(chosen, measure.name) {
			continue
		}
		if err := measure.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", measure.name, err)
		}
	}
	return nil
}
