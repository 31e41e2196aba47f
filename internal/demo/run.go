package demo

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/status"
)

// Snapshot is how the fleet stands at one moment.
type Snapshot struct {
	Summary  status.Summary
	Rollouts []gates.Result
	Notes    []Note
	// Converged is how long the newest publication took to be ready everywhere; zero while it is not.
	Converged time.Duration
	// Since is when the newest publication, or the last command, began.
	Since time.Time
}

// Run publishes the fleet, runs its agents, steps its rollouts, and shows how it stands every so often, until ctx ends
// or show says so.
func (d *Demo) Run(ctx context.Context, every time.Duration, show func(Snapshot) (goOn bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result, err := d.Publish(ctx)
	if err != nil {
		return err
	}
	d.note("published: %d bundles to %d clusters", len(result.Bundles), len(result.Targets))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.RunAgents(ctx) })
	group.Go(func() error {
		defer cancel()
		return d.watch(ctx, every, show)
	})
	return group.Wait()
}

// watch looks at the fleet, again and again.
func (d *Demo) watch(ctx context.Context, every time.Duration, show func(Snapshot) bool) error {
	cache := &status.Reader{Registry: d.Registry, Cache: status.OpenCache("")}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var snapshot Snapshot
	snapshot.Since = time.Now()
	var publication int64
	for {
		if err := d.look(ctx, cache, &snapshot); err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if snapshot.Summary.Publication != publication {
			publication, snapshot.Since, snapshot.Converged = snapshot.Summary.Publication, time.Now(), 0
		}
		if snapshot.Converged == 0 && snapshot.Summary.Ready && settled(snapshot.Rollouts) {
			snapshot.Converged = time.Since(snapshot.Since)
		}
		if !show(snapshot) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func settled(rollouts []gates.Result) bool {
	for i := range rollouts {
		if !rollouts[i].Gate.Phase.Final() {
			return false
		}
	}
	return true
}

// look reads the reports once, and moves every rollout on by them.
func (d *Demo) look(ctx context.Context, reader *status.Reader, snapshot *Snapshot) error {
	index, _, err := publish.ReadIndex(ctx, d.Registry, d.Verifier)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	reports, err := reader.Read(ctx, index)
	if err != nil {
		return err
	}
	now := time.Now()
	snapshot.Summary = status.Summarise(index, status.JudgeAll(index, reports, status.Options{Now: now, UnseenAfter: d.UnseenAfter()}))
	snapshot.Rollouts = snapshot.Rollouts[:0:0]
	for _, name := range gates.Names(index) {
		result, err := gates.Step(ctx, name, gates.Options{
			Registry: d.Registry, Verifier: d.Verifier, Signer: d.Signer, Index: index, Reports: reports, Now: now,
		})
		if errors.Is(err, gates.ErrConcurrent) {
			continue // somebody steps in a second terminal
		}
		if err != nil {
			return err
		}
		d.noteGate(name, result)
		snapshot.Rollouts = append(snapshot.Rollouts, result)
	}
	snapshot.Notes = d.Notes()
	return nil
}

// noteGate tells what a step said.
func (d *Demo) noteGate(name string, result gates.Result) {
	if !result.Written || result.Renewed || len(result.Gate.Events) == 0 {
		return
	}
	last := result.Gate.Events[len(result.Gate.Events)-1]
	d.mu.Lock()
	known := len(d.notes) > 0 && d.notes[len(d.notes)-1].Text == noteOf(name, last)
	d.mu.Unlock()
	if !known {
		d.note("%s", noteOf(name, last))
	}
}

func noteOf(name string, event v1alpha1.RolloutEvent) string {
	return "rollout " + name + ": " + string(event.Phase) + ": " + event.Message
}
