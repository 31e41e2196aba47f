package agent

import (
	"fmt"
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// A target may announce changes, each under a rollout's gate. The agent fetches and verifies them ahead, and takes one
// once a gate lets this cluster in. What was started goes on without the registry; what was not, never starts by a gate
// that is older, expired, of another plan, or not signed.

// gateMemory is what the agent remembers of one rollout, on its disk: neither a restart nor an older gate changes it.
type gateMemory struct {
	Plan int64 `json:"plan"`
	// Gate is the newest that was accepted, of whatever plan, and Digest its manifest's.
	Gate   *v1alpha1.RolloutGate `json:"gate,omitempty"`
	Digest string                `json:"digest,omitempty"`

	State v1alpha1.RolloutState `json:"state"`
	// Late: this cluster was away when its place was opened, and waits for the last wave.
	Late bool `json:"late,omitempty"`
	// Attempt is the gate's when it was started.
	Attempt   int64     `json:"attempt,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	Reason    Reason    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`
}

// taken reports whether the announced version holds.
func (m *gateMemory) taken() bool {
	return m.State == v1alpha1.RolloutRunning || m.State == v1alpha1.RolloutDone || m.State == v1alpha1.RolloutFailed
}

// of returns the newest gate of a plan; nil when there is none yet.
func (m *gateMemory) of(plan int64) *v1alpha1.RolloutGate {
	if m.Gate == nil || m.Gate.Plan != plan {
		return nil
	}
	return m.Gate
}

// acceptGate decides whether a verified gate may replace the one that is known. Nil accepts.
func acceptGate(gate *v1alpha1.RolloutGate, digest, name, fleet string, known *gateMemory, now time.Time) *Error {
	refuse := func(reason Reason, mend, format string, args ...any) *Error {
		return &Error{
			Stage: StageAccept, Subject: fmt.Sprintf("gate %d of rollout %s (%s)", gate.Sequence, name, digest), Reason: reason,
			Mend: mend, Err: fmt.Errorf(format, args...),
		}
	}
	switch {
	case gate.Fleet != fleet:
		return refuse(ReasonWrongFleet, "point the agent's registry at the right fleet", "it is of fleet %q, this agent belongs to %q", gate.Fleet, fleet)
	case gate.Name != name:
		return refuse(ReasonGateRefused, "find out who copied the gate", "it is of rollout %q", gate.Name)
	case known.Gate != nil && gate.Sequence < known.Gate.Sequence:
		return refuse(ReasonRollback, "find out who put an older gate back", "gate %d was accepted already", known.Gate.Sequence)
	case known.Gate != nil && gate.Sequence == known.Gate.Sequence && digest != known.Digest:
		return refuse(ReasonEquivocation, "run pinnace rollout step again, in one place", "gate %d was accepted before with digest %s", gate.Sequence, known.Digest)
	case gate.IssuedAt.After(now.Add(MaxClockSkew)):
		return refuse(ReasonClockSkew, "set this node's clock, or the stepper's", "it was issued at %s, which is in the future here", stamp(gate.IssuedAt.Time))
	}
	return nil
}

// progress is how far the bundles of an announced change are.
type progress struct {
	done   bool
	failed string // what failed, in words
	held   bool   // everything that is not done waits for a window
	begun  bool   // something of it is done
}

// turn moves a rollout's memory on: what the gate, the clock and the bundles make of it. It is pure.
func (m gateMemory) turn(rollout *v1alpha1.TargetRollout, far progress, now time.Time) gateMemory {
	if m.Plan != rollout.Plan {
		m = gateMemory{Plan: rollout.Plan, Gate: m.Gate, Digest: m.Digest, State: v1alpha1.RolloutWaiting}
	}
	// What waits for a window was let in and did not start: until it does, the gate has its say.
	held := m.State == v1alpha1.RolloutRunning && !far.begun && (far.held || m.Reason == ReasonWaitingForWindow)
	letIn := m.StartedAt
	if held {
		m.State, m.StartedAt = v1alpha1.RolloutWaiting, time.Time{}
	}
	if m.taken() {
		m = m.advance(rollout, far, now)
	}
	gate := m.of(rollout.Plan)
	switch {
	case gate == nil:
		return m.wait("", "waits for its gate")
	case gate.Phase == v1alpha1.RolloutAborted:
		return m.abort(rollout, gate, now)
	case m.taken() && (m.State != v1alpha1.RolloutFailed || gate.Attempt <= m.Attempt):
		return m
	case m.State == v1alpha1.RolloutReverted && gate.Attempt <= m.Attempt:
		return m // it is not tried again until people say so, or something else is announced
	case gate.Phase == v1alpha1.RolloutPaused:
		return m.wait("", "is paused")
	case !gate.Phase.Final() && !now.Before(gate.ExpiresAt.Time):
		return m.wait(ReasonGateExpired, "its gate expired at "+stamp(gate.ExpiresAt.Time)+"; nothing new is started before there is another")
	}
	wave := rollout.Wave
	if m.Late {
		wave = rollout.LateWave
	}
	if !gate.Open(wave, rollout.Bucket) {
		return m.wait("", "waits for its turn")
	}
	m.State, m.StartedAt, m.EndedAt, m.Attempt = v1alpha1.RolloutRunning, now, time.Time{}, gate.Attempt
	m.Reason, m.Message = "", ""
	if held && far.held {
		m.StartedAt, m.Reason, m.Message = letIn, ReasonWaitingForWindow, "waits for the maintenance window"
	}
	return m
}

// wait notes why a change that was not started is not started; one that was goes on.
func (m gateMemory) wait(reason Reason, message string) gateMemory {
	if m.State == v1alpha1.RolloutWaiting {
		m.Reason, m.Message = reason, message
	}
	return m
}

// advance notes how far a change is that was started.
func (m gateMemory) advance(rollout *v1alpha1.TargetRollout, far progress, now time.Time) gateMemory {
	was := m.State
	switch {
	case far.done:
		m.State, m.Reason, m.Message = v1alpha1.RolloutDone, "", ""
	case far.failed != "":
		m.State, m.Reason, m.Message = v1alpha1.RolloutFailed, ReasonRolloutFailed, far.failed
	case far.held:
		// The deadline counts from when it really starts.
		m.State, m.StartedAt, m.Reason, m.Message = v1alpha1.RolloutRunning, now, ReasonWaitingForWindow, "waits for the maintenance window"
	case was == v1alpha1.RolloutRunning && now.Sub(m.StartedAt) > rollout.Deadline.Duration:
		m.State, m.Reason = v1alpha1.RolloutFailed, ReasonTimedOut
		m.Message = fmt.Sprintf("is not ready %s after its start", rollout.Deadline.Duration)
	case was == v1alpha1.RolloutRunning:
		m.Reason, m.Message = "", ""
	}
	if m.State != was && m.State != v1alpha1.RolloutRunning {
		m.EndedAt = now
	}
	return m
}

// abort takes back what was started, as the strategy says. It needs no network: what ran before is on the disk.
func (m gateMemory) abort(rollout *v1alpha1.TargetRollout, gate *v1alpha1.RolloutGate, now time.Time) gateMemory {
	keeps := rollout.OnAbort == v1alpha1.AbortKeep ||
		rollout.OnAbort == v1alpha1.AbortRevertUnfinished && m.State == v1alpha1.RolloutDone
	switch {
	case m.State == v1alpha1.RolloutWaiting:
		return m.wait(ReasonRolloutAborted, "was aborted: "+gate.Message)
	case m.State == v1alpha1.RolloutReverted || keeps:
		return m
	}
	m.State, m.EndedAt, m.Reason, m.Message = v1alpha1.RolloutReverted, now, ReasonRolloutAborted, "was aborted, and taken back: "+gate.Message
	return m
}

// far says how far the units of an announced change are.
func far(units map[string]*unit, rollout *v1alpha1.TargetRollout) progress {
	out := progress{done: true, held: true}
	for i := range rollout.Bundles {
		one := units[rollout.Bundles[i].Name]
		if one == nil || one.offeredPrint != fingerprint(&rollout.Bundles[i]) {
			out.done, out.held = false, false
			continue
		}
		out.add(one)
	}
	for _, name := range rollout.Remove {
		if one := units[name]; one != nil {
			out.add(one)
		}
	}
	out.held = out.held && !out.done
	return out
}

func (p *progress) add(one *unit) {
	if one.offered != nil && one.satisfied() {
		p.begun = true
		return
	}
	p.done = false
	if one.held == nil || one.held.reason != ReasonWaitingForWindow {
		p.held = false
	}
	if p.failed == "" && (one.state == v1alpha1.StateFailed || one.state == v1alpha1.StateRefused) {
		p.failed = fmt.Sprintf("bundle %s is %s: %s", one.name, one.state, one.message)
	}
}

// take returns the bundles after an announced change.
func take(bundles []v1alpha1.TargetBundle, rollout *v1alpha1.TargetRollout) []v1alpha1.TargetBundle {
	out := slices.DeleteFunc(slices.Clone(bundles), func(bundle v1alpha1.TargetBundle) bool {
		return slices.Contains(rollout.Remove, bundle.Name) ||
			slices.ContainsFunc(rollout.Bundles, func(next v1alpha1.TargetBundle) bool { return next.Name == bundle.Name })
	})
	return append(out, rollout.Bundles...)
}

// announced lists the bundles of every change that a target announces.
func announced(target *v1alpha1.Target) []v1alpha1.TargetBundle {
	var bundles []v1alpha1.TargetBundle
	for i := range target.Rollouts {
		bundles = append(bundles, target.Rollouts[i].Bundles...)
	}
	return bundles
}

// maxRollouts stops a target that announces rollouts without end: each costs a request a poll.
const maxRollouts = 1000

// checkRollouts checks what a target announces before anything of it is used.
func checkRollouts(target *v1alpha1.Target) error {
	if len(target.Rollouts) > maxRollouts {
		return fmt.Errorf("%d rollouts, at most %d are allowed", len(target.Rollouts), maxRollouts)
	}
	rollouts, bundles := map[string]bool{}, map[string]bool{}
	for i := range target.Rollouts {
		rollout := &target.Rollouts[i]
		if !repositoryPattern.MatchString(rollout.Name) || rollouts[rollout.Name] {
			return fmt.Errorf("rollout %q: its name is not a repository's, or is there twice", rollout.Name)
		}
		rollouts[rollout.Name] = true
		for j := range rollout.Bundles {
			bundle := &rollout.Bundles[j]
			if err := validateBundle(bundle); err != nil {
				return fmt.Errorf("rollout %q: bundle %q: %w", rollout.Name, bundle.Name, err)
			}
			if bundles[bundle.Name] {
				return fmt.Errorf("bundle %q is in two rollouts", bundle.Name)
			}
			bundles[bundle.Name] = true
		}
	}
	return nil
}
