package gates

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target/rollout"
	"pinnace.dev/pinnace/pkg/target/status"
)

// Options of [Step], [Look] and [Do].
type Options struct {
	Registry oci.Registry
	Verifier Verifier
	// Signer writes gates; Look needs none.
	Signer Signer
	// Index is the fleet's.
	Index v1alpha1.FleetIndex
	// Reports are those of the index's clusters, in its order.
	Reports []status.Report
	// Validity of gates; [DefaultValidity] when zero.
	Validity time.Duration
	Now      time.Time
}

func (o *Options) validity() time.Duration {
	if o.Validity <= 0 {
		return DefaultValidity
	}
	return o.Validity
}

// Result is what a step did.
type Result struct {
	rollout.View
	// Written is whether a gate was written; Renewed that it says the same as before, for longer.
	Written bool `json:"written"`
	Renewed bool `json:"renewed,omitempty"`
	// Approved are the steps that people approved.
	Approved map[string]bool `json:"approved,omitempty"`
}

// Step moves one rollout on, as far as the reports allow: at most one gate is written.
func Step(ctx context.Context, name string, opts Options) (Result, error) {
	state, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	next, changed := rollout.Decide(in)
	renew := !changed && !next.Phase.Final() && next.ExpiresAt.Sub(opts.Now) < opts.validity()/2
	result := Result{Approved: in.Approved}
	if changed || renew {
		if next, err = pushGate(ctx, opts.Registry, opts.Signer, state, next, opts.Now, opts.validity()); err != nil {
			return result, fmt.Errorf("rollout %s: %w", name, err)
		}
		result.Written, result.Renewed = true, renew
	}
	in.Gate = &next
	result.View = rollout.Look(in)
	return result, nil
}

// Look describes a rollout.
func Look(ctx context.Context, name string, opts Options) (Result, error) {
	_, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	return Result{View: rollout.Look(in), Approved: in.Approved}, nil
}

// Do is what people do to a rollout: pause, resume, abort.
func Do(ctx context.Context, name string, act rollout.Act, by, message string, opts Options) (Result, error) {
	state, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	gate := rollout.Begin(*state.Plan, state.Gate, opts.Now)
	gate, err = rollout.Do(act, gate, nextSequence(state), by, message, opts.Now)
	if err != nil {
		return Result{}, err
	}
	if gate, err = pushGate(ctx, opts.Registry, opts.Signer, state, gate, opts.Now, opts.validity()); err != nil {
		return Result{}, fmt.Errorf("rollout %s: %w", name, err)
	}
	in.Gate = &gate
	return Result{View: rollout.Look(in), Approved: in.Approved, Written: true}, nil
}

// gather reads everything that a decision is made of.
func gather(ctx context.Context, name string, opts Options) (State, rollout.Input, error) {
	state, err := Read(ctx, opts.Registry, opts.Verifier, name)
	if err != nil {
		return state, rollout.Input{}, err
	}
	if state.Plan == nil {
		return state, rollout.Input{}, fmt.Errorf("%s: %w; pinnace rollout status lists all", name, ErrNoRollout)
	}
	if state.Plan.Fleet != opts.Index.Fleet {
		return state, rollout.Input{}, fmt.Errorf("rollout %s is of fleet %q, not of %q", name, state.Plan.Fleet, opts.Index.Fleet)
	}
	if opts.Signer != nil {
		if err := finish(ctx, opts.Registry, opts.Verifier, &state); err != nil {
			return state, rollout.Input{}, fmt.Errorf("rollout %s: %w", name, err)
		}
	}
	approved, err := Approved(ctx, opts.Registry, state)
	if err != nil {
		return state, rollout.Input{}, err
	}
	return state, rollout.Input{
		Plan: *state.Plan, Gate: state.Gate, Members: Members(opts.Index, opts.Reports, name, state.Plan.Plan), Approved: approved, Now: opts.Now,
	}, nil
}

// Members are the clusters to which a plan is announced, with what they report of it.
func Members(index v1alpha1.FleetIndex, reports []status.Report, name string, plan int64) []rollout.Member {
	var members []rollout.Member
	for i := range index.Clusters {
		for _, announced := range index.Clusters[i].Rollouts {
			if announced.Name != name || announced.Plan != plan {
				continue
			}
			member := rollout.Member{
				Name: index.Clusters[i].Name, Place: rollout.Place{Wave: announced.Wave, Bucket: announced.Bucket},
			}
			if i < len(reports) && reports[i].Status != nil {
				report(&member, reports[i].Status, name, plan)
			}
			members = append(members, member)
		}
	}
	return members
}

// report takes what a trusted report says of the plan.
func report(member *rollout.Member, status *v1alpha1.StatusReport, name string, plan int64) {
	member.Seen = status.ReportedAt.Time
	for _, reported := range status.Rollouts {
		if reported.Name != name || reported.Plan != plan {
			continue
		}
		member.State, member.Late, member.StartedAt, member.Gate = reported.State, reported.Late, reported.StartedAt.Time, reported.Gate
		member.Held = reported.Reason == v1alpha1.ReasonHeld
		member.Message = reported.Message
	}
}

// Names are the rollouts that the index's clusters were told of, sorted.
func Names(index v1alpha1.FleetIndex) []string {
	found := map[string]bool{}
	for i := range index.Clusters {
		for _, announced := range index.Clusters[i].Rollouts {
			found[announced.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
