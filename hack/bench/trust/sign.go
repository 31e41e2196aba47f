package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"pinnace.dev/pinnace/e2e/hostile"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
)

// targets of a large fleet, and how many are signed at the same time.
const (
	targets = 5000
	jobs    = 8
)

// sign measures signing the targets of 5,000 clusters: one signature each by key, and in batches as an identity.
func (b *bench) sign(ctx context.Context) (err error) {
	remote, err := newSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.close()) }()
	all, err := push(ctx, remote.registry, targets)
	if err != nil {
		return err
	}
	started := time.Now()
	made, err := b.key.SignAll(ctx, items(all), jobs)
	if err != nil {
		return err
	}
	if made != targets {
		return fmt.Errorf("%d signatures, want %d", made, targets)
	}
	figures.Report("sign_5000_by_key_seconds", time.Since(started).Seconds(), "s")

	// The same without a registry: what is left of it is the registry's.
	if all, err = push(ctx, oci.NewMemory(), targets); err != nil {
		return err
	}
	started = time.Now()
	if _, err = b.key.SignAll(ctx, items(all), jobs); err != nil {
		return err
	}
	figures.Report("sign_5000_by_key_in_process_seconds", time.Since(started).Seconds(), "s")

	if all, err = push(ctx, oci.NewMemory(), targets); err != nil {
		return err
	}
	started = time.Now()
	if made, err = b.identity.SignAll(ctx, items(all), jobs); err != nil {
		return err
	}
	figures.Report("sign_5000_batch_signatures", float64(made), "signatures")
	figures.Report("sign_5000_batch_in_process_seconds", time.Since(started).Seconds(), "s")
	verifier, err := b.identityPolicy()
	if err != nil {
		return err
	}
	for _, one := range all {
		if _, err := verifier.Verify(ctx, one.repo, one.name, one.desc); err != nil {
			return err
		}
	}
	return nil
}

// attacks runs the table of attacks on an agent.
func (b *bench) attacks(ctx context.Context) error {
	refused, total := hostile.RunAll(ctx, func(name string, err error) {
		fmt.Fprintf(os.Stderr, "attack %q: %v\n", name, err)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx) // what was interrupted says nothing
	}
	figures.Report("attacks_refused", float64(refused), "attacks")
	figures.Report("attacks_total", float64(total), "attacks")
	return nil
}
