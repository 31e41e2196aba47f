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
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	agents := flag.Int("agents", 5000, "simulated clusters")
	interval := flag.Duration("interval", time.Minute, "between an agent's polls")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := measure(ctx, *agents, *interval)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench fleet:", err)
		os.Exit(1)
	}
}
