// Command fleet measures a fleet of thousands of agents on one registry. The agents run the real sync code in this
// process, with an in-memory apply; the registry is the embedded one, in a process of its own, on a folder. It prints
// "name value unit" lines.
//
//	go run ./hack/bench/fleet                    # 5,000 agents, polls every 60 s: about six minutes
//	go run ./hack/bench/fleet -agents 500 -interval 6s
//
// PINNACE_BIN names the folder of pinnace.
package main

import (
	"context"
	"flag"
	"time"

	"pinnace.dev/pinnace/hack/bench/figures"
)

func main() { figures.Main(run) }

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	agents := flags.Int("agents", 5000, "simulated clusters")
	interval := flags.Duration("interval", time.Minute, "between an agent's polls")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return measure(ctx, *agents, *interval)
}
