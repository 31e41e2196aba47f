// Command pinnace publishes a fleet's Git repositories to an OCI registry and tells what runs where.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"pinnace.dev/pinnace/internal/cli"
)

// version is set by the linker.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	program := cli.Program{Version: version, In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Run(ctx, program, os.Args[1:]))
}
