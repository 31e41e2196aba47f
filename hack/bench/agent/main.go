// Command agent measures the agent on this machine: the real pinnace-agent as a process, against a real control plane in
// which kwok plays the nodes, and a registry behind a meter. It prints "name value unit" lines; they are figures of one
// run, to be compared with another run on the same machine. Arguments choose among fifty and apps; both without any.
//
//   - fifty: 50 bundles of 10 objects, on a cluster whose second API server serves the agent alone, so that the server's
//     own metrics count its requests. Start, idle minutes, drift, a one-line change, and a start with the link cut.
//   - apps: 1, 10, 100 and 1,000 bundles of one Deployment each, waiting for readiness and not, each on a new cluster.
//
// The time to apply begins with the start of the process on an empty disk and ends when every BundleDeployment is Ready.
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

func main() { figures.Main(run) }

func run(ctx context.Context, chosen []string) (err error) {
	site, err := harness.Start(ctx, harness.Options{Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	b := &bench{site: site}
	if err := b.publish(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	// The last thing that fifty does is to cut the link.
	for _, measure := range []struct {
		name string
		run  func(context.Context) error
	}{{"apps", b.apps}, {"fifty", b.fifty}} {
		if len(chosen) > 0 && !slices.Contains(chosen, measure.name) {
			continue
		}
		if err := measure.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", measure.name, err)
		}
	}
	return nil
}
