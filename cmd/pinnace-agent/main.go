// Command pinnace-agent keeps one Kubernetes cluster as its signed target in an OCI registry says.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"pinnace.dev/pinnace/internal/agentcli"
)

// version is set by the linker.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	program := agentcli.Program{Version: version, Out: os.Stdout, Err: os.Stderr}
	os.Exit(agentcli.Run(ctx, program, os.Args[1:]))
}
