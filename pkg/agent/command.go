package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// ErrNoBundle is the error for a bundle that is not on this cluster.
var ErrNoBundle = errors.New("not on this cluster")

// ErrNotAtWork is the error while the agent is no further than waiting for its cluster, or for another agent.
var ErrNotAtWork = errors.New("the agent is not at work yet: it waits for its cluster, or for the agent that works on it")

// do runs a person's command on the loop, and waits for it.
func (a *Agent) do(ctx context.Context, command func() error) error {
	done := make(chan error, 1)
	select {
	case a.commands <- func() { done <- command() }:
		return <-done
	case <-ctx.Done():
		return ErrNotAtWork
	}
}

// Suspend stops all work on those bundles, on all when none is named, until [Agent.Resume]; also over restarts. What
// was begun is finished. Their health is still watched and reported, and new targets are still fetched.
func (a *Agent) Suspend(ctx context.Context, bundles ...string) error {
	return a.do(ctx, func() error {
		if err := a.exist(bundles); err != nil {
			return err
		}
		return a.suspend(a.suspended.Suspend(a.now(), bundles...))
	})
}

// Resume ends a suspension: the bundles are brought to what the target says by now, and drift that came up meanwhile is
// corrected.
func (a *Agent) Resume(ctx context.Context, bundles ...string) error {
	return a.do(ctx, func() error {
		before := a.suspended
		if err := a.exist(slices.DeleteFunc(slices.Clone(bundles), before.has)); err != nil {
			return err
		}
		if before.All != nil && len(bundles) > 0 {
			return errors.New("everything is suspended; resume without naming bundles, then suspend those that are to stay so")
		}
		if err := a.suspend(before.Resume(bundles...)); err != nil {
			return err
		}
		for name, one := range a.units {
			if !before.has(name) || a.suspended.has(name) {
				continue
			}
			if one.deployed {
				one.todo, one.deployed, one.healthy = true, false, false
			}
			one.attempts, one.retryAt = 0, time.Time{}
			a.tell(Event{Bundle: name, Reason: ReasonResumed, Message: "is no longer suspended"})
		}
		return nil
	})
}

func (a *Agent) suspend(next Suspended) error {
	if err := a.cfg.State.Suspend(next); err != nil {
		return err
	}
	a.suspended = next
	names := slices.Sorted(maps.Keys(next.Bundles))
	a.log.Info("suspended bundles changed", "stage", StageState, "all", next.All != nil, "bundles", names)
	return nil
}

// Look looks at the registry now, and tries again at once what failed: those bundles, or all when none is named.
func (a *Agent) Look(ctx context.Context, bundles ...string) error {
	return a.do(ctx, func() error {
		if err := a.exist(bundles); err != nil {
			return err
		}
		for name, one := range a.units {
			if len(bundles) == 0 || slices.Contains(bundles, name) {
				one.refusal, one.attempts, one.retryAt = nil, 0, time.Time{}
			}
		}
		a.pullAt = a.now()
		return nil
	})
}

// exist returns an error for bundles that are not there.
func (a *Agent) exist(bundles []string) error {
	for _, name := range bundles {
		if a.units[name] == nil {
			known := slices.Sorted(maps.Keys(a.units))
			if len(known) == 0 {
				return fmt.Errorf("bundle %q is %w; it has none", name, ErrNoBundle)
			}
			return fmt.Errorf("bundle %q is %w; it has %s", name, ErrNoBundle, few(known))
		}
	}
	return nil
}

// Overview is how everything stands, as it is reported.
type Overview struct {
	Report v1alpha1.StatusReport `json:"report"`
	// Suspended is what a person stopped.
	Suspended Suspended `json:"suspended,omitzero"`
	// Contact is how long ago a registry last answered.
	Contact time.Duration `json:"contact"`
}

// Overview says how everything stands.
func (a *Agent) Overview(ctx context.Context) (Overview, error) {
	var overview Overview
	err := a.do(ctx, func() error {
		overview = Overview{Report: a.statusReport(), Suspended: a.suspended, Contact: a.age() - time.Duration(a.contact.Load())}
		return nil
	})
	return overview, err
}
