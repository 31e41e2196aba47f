package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Explanation is why a bundle is in the state that it is in.
type Explanation struct {
	Bundle  string         `json:"bundle"`
	State   v1alpha1.State `json:"state"`
	Reason  Reason         `json:"reason"`
	Message string         `json:"message,omitempty"`
	Since   time.Time      `json:"since"`

	Target ExplainedTarget `json:"target"`
	// Problem is why a newer target is not in force.
	Problem string `json:"problem,omitempty"`
	// Contact is how long ago a registry last answered.
	Contact time.Duration `json:"contact"`

	// Wanted is what the target asks for; nil for a bundle that left it. Runs is what was applied, Enforced what is kept
	// that way: another than Wanted while that is held back.
	Wanted   *ExplainedVersion `json:"wanted,omitempty"`
	Runs     *ExplainedVersion `json:"runs,omitempty"`
	Enforced *ExplainedVersion `json:"enforced,omitempty"`
	LastGood string            `json:"lastGood,omitempty"`
	// Failed is the version that was rolled back.
	Failed *Failure `json:"failed,omitempty"`

	// Held is why what is wanted waits, Until when that is decided again.
	Held      Reason     `json:"held,omitempty"`
	HeldWhy   string     `json:"heldWhy,omitempty"`
	Until     *time.Time `json:"until,omitempty"`
	Suspended bool       `json:"suspended,omitempty"`

	DependsOn []ExplainedDependency `json:"dependsOn,omitempty"`

	Objects  int                `json:"objects"`
	Ready    int                `json:"ready"`
	Deadline *time.Time         `json:"deadline,omitempty"` // of readiness
	Problems []v1alpha1.Problem `json:"problems,omitempty"`
	Drift    v1alpha1.DriftMode `json:"drift"`
	Drifted  []string           `json:"drifted,omitempty"`

	// Attempts at what is wanted failed; RetryAt is when the next one is.
	Attempts int        `json:"attempts,omitempty"`
	RetryAt  *time.Time `json:"retryAt,omitempty"`
}

// ExplainedTarget is the target in force.
type ExplainedTarget struct {
	Digest     string    `json:"digest,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Signers    []string  `json:"signers,omitempty"`
	Taken      time.Time `json:"taken,omitzero"`
	Expires    time.Time `json:"expires,omitzero"`
	Stale      bool      `json:"stale,omitempty"`
	// Newest is the generation that was accepted last, where its bundles are not all there yet.
	Newest int64 `json:"newest,omitempty"`
}

// ExplainedVersion is a version of a bundle.
type ExplainedVersion struct {
	Digest     string          `json:"digest"`
	Repository string          `json:"repository"`
	Source     string          `json:"source,omitempty"`
	Namespace  string          `json:"namespace"`
	Method     v1alpha1.Method `json:"method"`
	Generation int64           `json:"generation"`
	// Incomplete: its apply has not come to its end.
	Incomplete bool `json:"incomplete,omitempty"`
}

// ExplainedDependency is a bundle that another one waits for.
type ExplainedDependency struct {
	Bundle string         `json:"bundle"`
	State  v1alpha1.State `json:"state"`
	Reason Reason         `json:"reason,omitempty"`
	// Satisfied: what depends on it may come.
	Satisfied bool `json:"satisfied"`
}

// Explain says why a bundle is in the state that it is in.
func (a *Agent) Explain(ctx context.Context, bundle string) (Explanation, error) {
	var explanation Explanation
	err := a.do(ctx, func() error {
		if err := a.exist([]string{bundle}); err != nil {
			return err
		}
		explanation = a.explain(a.units[bundle])
		return nil
	})
	return explanation, err
}

func (a *Agent) explain(one *unit) Explanation {
	out := Explanation{
		Bundle: one.name, State: one.state, Reason: one.reason, Message: one.message, Since: one.since.UTC(),
		Target: a.explainTarget(), Contact: a.age() - time.Duration(a.contact.Load()),
		LastGood: one.recorded.lastGood(), Suspended: one.suspended,
		Objects: one.objects, Ready: one.ready, Problems: one.problems, Attempts: one.attempts,
		Wanted: explainVersion(one.offered, one.generation), Enforced: explainVersion(one.want, one.wantGeneration),
		RetryAt: moment(one.retryAt), Drift: v1alpha1.DriftCorrect,
	}
	if a.problem != nil {
		out.Problem = oneLine(a.problem).Error()
	}
	if one.want != nil && one.want.Drift.Mode != "" {
		out.Drift = one.want.Drift.Mode
	}
	if one.recorded != nil {
		out.Runs = explainVersion(&one.recorded.Bundle, one.recorded.Generation)
		out.Runs.Incomplete = !one.recorded.Complete
		out.Failed = one.recorded.Failed
	}
	if one.held != nil {
		out.Held, out.HeldWhy, out.Until = one.held.reason, one.held.message, moment(one.held.until)
	}
	if one.deployed && !one.healthy {
		out.Deadline = moment(one.deadline)
	}
	for _, finding := range a.drift.findings[one.name] {
		out.Drifted = append(out.Drifted, finding.text)
	}
	slices.SortFunc(out.Drifted, strings.Compare)
	if one.offered != nil {
		for _, name := range one.offered.DependsOn {
			dependency := ExplainedDependency{Bundle: name}
			if other := a.units[name]; other != nil {
				dependency.State, dependency.Reason, dependency.Satisfied = other.state, other.reason, other.satisfied()
			}
			out.DependsOn = append(out.DependsOn, dependency)
		}
	}
	return out
}

func (a *Agent) explainTarget() ExplainedTarget {
	if a.target == nil {
		return ExplainedTarget{}
	}
	remembered := a.remembrance()
	out := ExplainedTarget{
		Digest: a.manifest.Digest.String(), Generation: a.target.Generation, Signers: remembered.Signers,
		Taken: remembered.Seen.UTC().Truncate(time.Second), Expires: a.target.ExpiresAt.UTC(), Stale: a.isStale(a.now()),
	}
	if remembered.Known.Generation > a.target.Generation {
		out.Newest = remembered.Known.Generation
	}
	return out
}

func explainVersion(bundle *v1alpha1.TargetBundle, generation int64) *ExplainedVersion {
	if bundle == nil {
		return nil
	}
	return &ExplainedVersion{
		Digest: bundle.Digest, Repository: bundle.Repository, Source: bundle.Source.Name, Namespace: bundle.Namespace,
		Method: bundle.Method, Generation: generation,
	}
}

// moment is a time to the second; nil for none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
