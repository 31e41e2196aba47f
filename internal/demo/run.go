package demo

import (
	"context"
	"errors"
	"sync"
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
	// At is when Summary and Rollouts were read: reading a large fleet takes a while.
	At time.Time
	// Work is what is under way.
	Work Work
	// Converged is how long after its publish the newest publication was ready everywhere; zero while it is not.
	Converged time.Duration
}

// restAfterLook is how many times as long as a look at all reports took it rests before the next: looking shares the
// machine with what it looks at.
const restAfterLook = 3

// Run publishes the fleet, runs its agents, steps its rollouts, and shows how it stands every so often, until ctx ends
// or show says so.
func (d *Demo) Run(ctx context.Context, every time.Duration, show func(Snapshot) (goOn bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		started := time.Now()
		result, err := d.Publish(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // nobody waits for it any more
			}
			return err
		}
		d.note("published: %d bundles to %d clusters in %s", len(result.Bundles), len(result.Targets), tenth(time.Since(started)))
		return d.RunAgents(ctx)
	})
	group.Go(func() error {
		defer cancel()
		return d.watch(ctx, every, show)
	})
	return group.Wait()
}

func tenth(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// looked is what a look found.
type looked struct {
	summary  status.Summary
	rollouts []gates.Result
	took     time.Duration
	err      error
}

// watch shows the fleet, again and again, and looks at it beside that, for a large one takes seconds to be read.
func (d *Demo) watch(ctx context.Context, every time.Duration, show func(Snapshot) bool) error {
	reader := &status.Reader{Registry: d.Registry, Cache: status.OpenCache("")}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var looking sync.WaitGroup
	defer looking.Wait()
	looks := make(chan looked, 1)
	var (
		snapshot Snapshot
		next     time.Time // when to look again
		busy     bool
	)
	for {
		if now := time.Now(); !busy && !now.Before(next) {
			busy = true
			looking.Go(func() {
				found := d.look(ctx, reader)
				found.took = time.Since(now)
				looks <- found
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case found := <-looks:
			if ctx.Err() != nil {
				return nil
			}
			if found.err != nil {
				return found.err
			}
			busy, next = false, time.Now().Add(max(every, restAfterLook*found.took))
			d.take(&snapshot, found)
		case <-tick.C:
		}
		before := snapshot.Work.Stage
		if snapshot.Work, snapshot.Notes = d.working(), d.Notes(); before != "" && snapshot.Work.Stage == "" {
			next = time.Time{} // what was waited for is over
		}
		if !show(snapshot) {
			return nil
		}
	}
}

// take brings what a look found into the snapshot.
func (d *Demo) take(snapshot *Snapshot, found looked) {
	if found.summary.Publication != snapshot.Summary.Publication {
		snapshot.Converged = 0
	}
	snapshot.Summary, snapshot.Rollouts, snapshot.At = found.summary, found.rollouts, time.Now()
	publishing, last := d.publishing()
	if snapshot.Converged == 0 && !publishing && snapshot.Summary.Ready && settled(snapshot.Rollouts) {
		snapshot.Converged = time.Since(last)
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

// look reads the reports once, and moves every rollout on by them. Before the first publish it finds nothing.
func (d *Demo) look(ctx context.Context, reader *status.Reader) (found looked) {
	index, _, err := publish.ReadIndex(ctx, d.Registry, d.Verifier)
	if errors.Is(err, oci.ErrNotFound) {
		return looked{}
	}
	if err != nil {
		return looked{err: err}
	}
	reports, err := reader.Read(ctx, index)
	if err != nil {
		return looked{err: err}
	}
	now := time.Now()
	found.summary = status.Summarise(index, status.JudgeAll(index, reports, status.Options{Now: now, UnseenAfter: d.UnseenAfter()}))
	for _, name := range gates.Names(index) {
		result, err := gates.Step(ctx, name, gates.Options{
			Registry: d.Registry, Verifier: d.Verifier, Signer: d.Signer, Index: index, Reports: reports, Now: now,
		})
		if errors.Is(err, gates.ErrConcurrent) {
			continue // somebody steps in a second terminal
		}
		if err != nil {
			return looked{err: err}
		}
		d.noteGate(name, result)
		found.rollouts = append(found.rollouts, result)
	}
	return found
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
