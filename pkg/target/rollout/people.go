package rollout

import (
	"errors"
	"fmt"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Act is what people do to a rollout: a closed set.
type Act string

const (
	Pause  Act = "pause"
	Resume Act = "resume"
	Abort  Act = "abort"
)

// ErrNotNow says that an act doesn't fit how the rollout stands.
var ErrNotNow = errors.New("not possible as the rollout stands")

// Begin returns the first gate of a plan, which lets nobody in.
func Begin(plan v1alpha1.RolloutPlan, before *v1alpha1.RolloutGate, now time.Time) v1alpha1.RolloutGate {
	d := decision{Input: Input{Plan: plan, Gate: before, Now: now}}
	d.begin()
	return d.gate
}

// Do returns the gate after an act. by and message are for the history. sequence is that of the gate which will be
// written.
func Do(act Act, gate v1alpha1.RolloutGate, sequence int64, by, message string, now time.Time) (v1alpha1.RolloutGate, error) {
	refuse := func(why string) (v1alpha1.RolloutGate, error) {
		return gate, fmt.Errorf("%s %s: %w: it is %s%s", act, gate.Name, ErrNotNow, gate.Phase, why)
	}
	if gate.Phase.Final() {
		return refuse("; publish a change to begin anew")
	}
	text := map[Act]string{Pause: "paused", Resume: "resumed", Abort: "aborted"}[act]
	switch act {
	case Pause:
		if gate.Phase == v1alpha1.RolloutPaused {
			return refuse("")
		}
		gate.Phase, gate.Reason = v1alpha1.RolloutPaused, "Paused"
	case Resume:
		if gate.Phase != v1alpha1.RolloutPaused {
			return refuse("; only a paused one is resumed")
		}
		// Clusters that failed may try again, and what was let in has its time anew.
		gate.Phase, gate.Reason, gate.Attempt, gate.OpenedAt = v1alpha1.RolloutProgressing, "", sequence, stamp(now)
		gate.StepSince = stamp(now)
	case Abort:
		gate.Phase, gate.Reason = v1alpha1.RolloutAborted, "Aborted"
	default:
		return gate, fmt.Errorf("%q is none of %s, %s and %s", act, Pause, Resume, Abort)
	}
	if message != "" {
		text += ": " + message
	}
	gate.Message = text
	if act == Resume {
		gate.Message = ""
	}
	d := decision{gate: gate, Input: Input{Now: now}}
	d.tell("%s", text)
	d.gate.Events[len(d.gate.Events)-1].By = by
	return d.gate, nil
}
