// Command demo runs the whole of Pinnace on this machine and proves what it promises: three real control planes, a
// registry, a Git server, a signed publish, three agents; then a change, drift, an attack and an outage.
//
// It prints one line per step and ends with 1 when one fails. It cleans up on success, failure and Ctrl-C. With KEEP=1
// it stays up afterwards and says how to reach each part.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pinnace.dev/pinnace/e2e/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once; what it started ends with it.
	context.AfterFunc(ctx, stop)
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "interrupted; everything was stopped and removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	started := time.Now()
	keep := os.Getenv("KEEP") == "1"
	dir, err := os.MkdirTemp("", "pinnace-demo-")
	if err != nil {
		return err
	}
	d := &demo{}
	defer func() {
		if d.site != nil {
			err = errors.Join(err, d.site.Close())
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "what everything said is kept in", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := d.step(ctx, "etcd and a Git server", func(ctx context.Context) (err error) {
		d.site, err = harness.Start(ctx, harness.Options{Dir: dir, Log: os.Stderr})
		return err
	}); err != nil {
		return err
	}
	if err := d.story(ctx); err != nil {
		return err
	}
	fmt.Printf("\nAll of it worked, in %.1f s.\n", time.Since(started).Seconds())
	if keep {
		d.explain()
		<-ctx.Done()
	}
	return nil
}

// step runs one step and prints its line.
func (d *demo) step(ctx context.Context, what string, do func(context.Context) error) error {
	started := time.Now()
	err := do(ctx)
	mark := "✔"
	if err != nil {
		mark = "✗"
		err = fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("%s %5.1f s  %s\n", mark, time.Since(started).Seconds(), what)
	return err
}
