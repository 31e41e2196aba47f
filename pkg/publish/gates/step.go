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
	// Refused is what the rollout's tags pointed at and counts for nothing: somebody pushed it.
	Refused []Refused `json:"refused,omitempty"`
}

// Step moves one rollout on, as far as the reports allow: at most one gate is written.
func Step(ctx context.Context, name string, opts Options) (Result, error) {
	shelf, state, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	next, changed := rollout.Decide(in)
	if state.lost {
		if next, changed, err = hold(state, opts.Now); err != nil {
			return Result{}, err
		}
	}
	renew := !changed && !next.Phase.Final() && next.ExpiresAt.Sub(opts.Now) < opts.validity()/2
	result := Result{Approved: in.Approved, Refused: state.Refused}
	if changed || renew {
		if next, err = pushGate(ctx, shelf, opts.Signer, state, next, opts.Now, opts.validity()); err != nil {
			return result, fmt.Errorf("rollout %s: %w", name, err)
		}
		result.Written, result.Renewed = true, renew
	}
	in.Gate = &next
	result.View = rollout.Look(in)
	return result, nil
}

// ReasonGateLost is why a rollout pauses whose next number was taken by something that counts for nothing.
const ReasonGateLost = "GateLost"

// hold pauses a rollout whose next gate may have been written and replaced by somebody who may not: had that been an
// abort, going on would reopen it. Agents that saw it heed it; people know what they did.
func hold(state State, now time.Time) (next v1alpha1.RolloutGate, changed bool, err error) {
	next = rollout.Begin(*state.Plan, state.Gate, now)
	if next.Phase.Final() || next.Phase == v1alpha1.RolloutPaused {
		return next, !next.Phase.Final(), nil // what is paused is written again, over what is there
	}
	next, err = rollout.Do(rollout.Pause, next, nextSequence(state), "pinnace rollout step",
		fmt.Sprintf("somebody pushed what counts for nothing under %s; resume it, unless it was aborted", v1alpha1.GateTag(nextSequence(state))), now)
	next.Reason = ReasonGateLost
	return next, true, err
}

// Look describes a rollout.
func Look(ctx context.Context, name string, opts Options) (Result, error) {
	_, state, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	return Result{View: rollout.Look(in), Approved: in.Approved, Refused: state.Refused}, nil
}

// Do is what people do to a rollout: pause, resume, abort.
func Do(ctx context.Context, name string, act rollout.Act, by, message string, opts Options) (Result, error) {
	shelf, state, in, err := gather(ctx, name, opts)
	if err != nil {
		return Result{}, err
	}
	gate := rollout.Begin(*state.Plan, state.Gate, opts.Now)
	gate, err = rollout.Do(act, gate, nextSequence(state), by, message, opts.Now)
	if err != nil {
		return Result{}, err
	}
	if gate, err = pushGate(ctx, shelf, opts.Signer, state, gate, opts.Now, opts.validity()); err != nil {
		return Result{}, fmt.Errorf("rollout %s: %w", name, err)
	}
	in.Gate = &gate
	return Result{View: rollout.Look(in), Approved: in.Approved, Written: true, Refused: state.Refused}, nil
}

// gather reads everything that a decision is made of.
func gather(ctx context.Context, name string, opts Options) (*shelf, State, rollout.Input, error) {
	fail := func(state State, err error) (*shelf, State, rollout.Input, error) {
		return nil, state, rollout.Input{}, err
	}
	shelf, err := openShelf(opts.Registry, opts.Verifier, name)
	if err != nil {
		return fail(State{}, err)
	}
	state, err := readState(ctx, shelf)
	if err != nil {
		return fail(state, err)
	}
	if state.Plan == nil {
		return fail(state, fmt.Errorf("%s: %w; pinnace rollout status lists all", name, ErrNoRollout))
	}
	if state.Plan.Fleet != opts.Index.Fleet {
		return fail(state, fmt.Errorf("rollout %s is of fleet %q, not of %q", name, state.Plan.Fleet, opts.Index.Fleet))
	}
	if opts.Signer != nil {
		if err := finish(ctx, shelf, &state); err != nil {
			return fail(state, fmt.Errorf("rollout %s: %w", name, err))
		}
	}
	approved, err := Approved(ctx, opts.Registry, state)
	if err != nil {
		return fail(state, err)
	}
	return shelf, state, rollout.Input{
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
