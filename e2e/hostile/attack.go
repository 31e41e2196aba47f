package hostile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// Attack is one entry of the table.
type Attack struct {
	Name string
	// Prepare makes the registry lie, or pushes what an insider would.
	Prepare func(w *World)
	// Want are the reasons to refuse it with; several where the network decides which comes first.
	Want []agent.Reason
	// Bundle is set where the target is taken and only one of its bundles is refused.
	Bundle bool
	// Harmless is set where the attack must have no effect at all: what it tries is ignored.
	Harmless bool
	// Check looks at what else must be true afterwards; nil when there is nothing.
	Check func() error
}

// Outcome says how an attack ended.
type Outcome struct {
	// Reason is what it was refused with.
	Reason agent.Reason
	// Message is the refusal's text.
	Message string
}

// evil is in everything that an attack wants to run.
const evil = "evil"

// Run attacks a world of its own. The error says how the attack succeeded, or that it was refused for another reason.
func (a Attack) Run(ctx context.Context) (out Outcome, err error) {
	w, err := newWorld(ctx)
	if err != nil {
		return out, fmt.Errorf("set up: %w", err)
	}
	defer w.end()
	defer caught(&err)
	before := w.cluster.runs()
	a.Prepare(w)
	result, err := w.sync(nil)
	if err != nil {
		return out, fmt.Errorf("sync: %w", err)
	}
	out = a.outcome(result)
	if err := a.judge(out); err != nil {
		return out, err
	}
	if runs := w.cluster.runs(); runs != before {
		return out, fmt.Errorf("the cluster ran %s, and runs %s", before, runs)
	}
	if a.Check != nil {
		if err := a.Check(); err != nil {
			return out, err
		}
	}
	return out, w.recovers(before)
}

// outcome finds the refusal in what the agent reports.
func (a Attack) outcome(result agent.Result) Outcome {
	if !a.Bundle {
		if result.Problem == nil {
			return Outcome{}
		}
		return Outcome{Reason: agent.ReasonOf(result.Problem, "?"), Message: result.Problem.Error()}
	}
	for _, bundle := range result.Report.Bundles {
		if bundle.State == v1alpha1.StateRefused || bundle.State == v1alpha1.StateFailed {
			return Outcome{Reason: agent.Reason(bundle.Reason), Message: bundle.Message}
		}
	}
	return Outcome{}
}

func (a Attack) judge(out Outcome) error {
	switch {
	case a.Harmless && out.Reason != "":
		return fmt.Errorf("it should have had no effect, and was refused: %s: %s", out.Reason, out.Message)
	case a.Harmless:
	case out.Reason == "":
		return errors.New("it was not refused")
	case !slices.Contains(a.Want, out.Reason):
		return fmt.Errorf("it was refused for %s (%s), want %v", out.Reason, out.Message, a.Want)
	case strings.Contains(out.Message, "\n"):
		return fmt.Errorf("the refusal has more than one line: %q", out.Message)
	}
	return nil
}

// recovers proves that nothing was lost: the last good target is enforced without any registry, on an empty cluster
// too, and the next honest one is taken.
func (w *World) recovers(before string) error {
	w.Lies.Heal()
	if _, err := w.sync([]oci.Registry{unreachable{}}); err != nil {
		return fmt.Errorf("restart without a registry: %w", err)
	}
	if runs := w.cluster.runs(); runs != before && !strings.Contains(before, runs) {
		return fmt.Errorf("after a restart without a registry %s runs, want %s", runs, before)
	}
	next := w.target(w.cluster.known.Generation+1, w.First.Bundles[0], w.bundle("web", "mended"))
	next.ExpiresAt = metav1.NewTime(time.Now().Add(24 * time.Hour))
	w.publish(next)
	result, err := w.sync(nil)
	if err != nil {
		return fmt.Errorf("sync afterwards: %w", err)
	}
	if result.Problem != nil {
		return fmt.Errorf("the next honest target was refused: %w", result.Problem)
	}
	if runs := w.cluster.runs(); runs != "shop=honest web=mended " {
		return fmt.Errorf("after the next honest target %s runs", runs)
	}
	for _, touched := range w.cluster.touched {
		if strings.Contains(touched, evil) {
			return fmt.Errorf("the attacker's content reached the cluster: %s", touched)
		}
	}
	return nil
}

// unreachable is no registry at all.
type unreachable struct{}

func (unreachable) Repository(string) (oci.Repository, error) { return nil, oci.ErrUnreachable }
func (unreachable) String() string                            { return "unreachable" }
