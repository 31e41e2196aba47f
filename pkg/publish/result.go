package publish

import (
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target"
)

// Result says what a publish did to each bundle and each target.
type Result struct {
	Fleet    string `json:"fleet"`
	Registry string `json:"registry"`
	// Publication is the fleet index's number, and Digest its digest; those of the last publish when nothing changed.
	Publication int64                  `json:"publication"`
	Digest      string                 `json:"digest,omitempty"`
	DryRun      bool                   `json:"dryRun,omitempty"`
	Sources     []v1alpha1.IndexSource `json:"sources"`
	// Renders counts the variants that were rendered; what is known from the last publish is not.
	Renders int            `json:"renders,omitempty"`
	Bundles []BundleResult `json:"bundles"`
	Targets []TargetResult `json:"targets"`
	// Rollouts are the plans that were made: what changes under a strategy waits for their gates.
	Rollouts []RolloutResult `json:"rollouts,omitempty"`
	// SignedAgain counts what an earlier key had signed, and this one, or with DryRun would have, too.
	SignedAgain int `json:"signedAgain,omitempty"`
	// Pruned is what the registry no longer keeps: nil when nothing was old enough.
	Pruned *PruneResult `json:"pruned,omitempty"`
	// Warnings are for people: what is otherwise than a file's author may expect, and what could not be looked up.
	Warnings []string `json:"warnings,omitempty"`
}

// BundleResult is one variant of a bundle.
type BundleResult struct {
	Name   string        `json:"name"`
	Action target.Action `json:"action"`
	Digest string        `json:"digest"`
	Source string        `json:"source"`
	// Clusters is how many get this variant.
	Clusters int `json:"clusters"`
}

// TargetResult is one cluster's target.
type TargetResult struct {
	Cluster    string        `json:"cluster"`
	Action     target.Action `json:"action"`
	Generation int64         `json:"generation"`
	Digest     string        `json:"digest,omitempty"`
	Bundles    int           `json:"bundles"`
	Reason     string        `json:"reason,omitempty"`
}

// Failed returns the sources that could not be read: clusters keep what they have of them.
func (r Result) Failed() []v1alpha1.IndexSource {
	return slices.DeleteFunc(slices.Clone(r.Sources), func(s v1alpha1.IndexSource) bool { return s.Failed == "" })
}

// Changed reports whether anything was, or with DryRun would be, published.
func (r Result) Changed() bool {
	for _, t := range r.Targets {
		if t.Action != target.Unchanged {
			return true
		}
	}
	return false
}

// addTargets lists what is done to each target, and returns a [*RefusedError] when some are refused.
func (r *Result) addTargets(targets []issuedTarget) error {
	var refused []TargetResult
	r.Targets = results(targets)
	for _, t := range targets {
		if t.result.Action == target.Refused {
			refused = append(refused, t.result)
		}
	}
	if len(refused) > 0 {
		return &RefusedError{Targets: refused}
	}
	return nil
}

func results(targets []issuedTarget) []TargetResult {
	out := make([]TargetResult, len(targets))
	for i := range targets {
		out[i] = targets[i].result
	}
	return out
}

// Event is one step of a publish, for progress.
type Event struct {
	// Stage is read, plan, build, inspect, sign, push, target, finish, compare or prune.
	Stage string
	// Subject is a bundle, a cluster or a repository.
	Subject string
	Action  target.Action
	// Done of All things of the stage are done.
	Done, All int
	// Bytes of content were sent in the stage so far.
	Bytes int64
}

// RefusedError lists the targets that [target.Decide] refused. Nothing was published.
type RefusedError struct{ Targets []TargetResult }

func (e *RefusedError) Error() string {
	first := e.Targets[0]
	text := fmt.Sprintf("nothing was published: cluster %s %s", first.Cluster, first.Reason)
	if more := len(e.Targets) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more clusters)", more)
	}
	return text
}
