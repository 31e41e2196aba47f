package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// State of a bundle on a cluster: a closed set, worst first.
type State string

const (
	StateRefused   State = "Refused"   // verification, policy or scope
	StateFailed    State = "Failed"    // apply, release or health failed
	StateContested State = "Contested" // another manager keeps changing what we apply
	StateDrifted   State = "Drifted"   // live differs, and the mode is warn
	StateWaiting   State = "Waiting"   // for a dependency
	StateUpdating  State = "Updating"  // applied, not ready yet
	StateReady     State = "Ready"
)

// StatusReport is what an agent says of its cluster, signed with the cluster's key.
type StatusReport struct {
	TypeMeta   `json:",inline"`
	Fleet      string         `json:"fleet"`
	Cluster    string         `json:"cluster"`
	ReportedAt metav1.Time    `json:"reportedAt"`
	Target     ReportedTarget `json:"target"`
	// Problem is why the newest target could not be taken, empty when it was.
	Problem    *Problem         `json:"problem,omitempty"`
	Bundles    []ReportedBundle `json:"bundles"`
	Agent      string           `json:"agent"` // version
	Kubernetes string           `json:"kubernetes,omitempty"`
	// Rollouts say how each change that the target announces stands here.
	Rollouts []ReportedRollout `json:"rollouts,omitempty"`
	// LastGood is the newest target of which every bundle was ready at the same time.
	LastGood *ReportedTarget `json:"lastGood,omitempty"`
	// Nodes is the number of nodes, Architectures are theirs, sorted; both are unknown when empty.
	Nodes         int      `json:"nodes,omitempty"`
	Architectures []string `json:"architectures,omitempty"`
	// Drift are the newest repairs and findings, at most MaxDriftEvents, oldest first.
	Drift []DriftEvent `json:"drift,omitempty"`
	// Shortened says that bundles that are ready were left out, and problems' texts cut, to stay below MaxReportSize.
	Shortened bool `json:"shortened,omitempty"`
}

// ReportedTarget is the target that the report speaks of.
type ReportedTarget struct {
	Digest     string `json:"digest,omitempty"`
	Generation int64  `json:"generation,omitempty"`
	Stale      bool   `json:"stale,omitempty"`
}

type ReportedBundle struct {
	Name     string      `json:"name"`
	Digest   string      `json:"digest"`
	State    State       `json:"state"`
	Since    metav1.Time `json:"since"`
	Reason   string      `json:"reason,omitempty"`
	Message  string      `json:"message,omitempty"`
	Objects  int         `json:"objects"`
	Ready    int         `json:"ready"`
	Problems []Problem   `json:"problems,omitempty"`
}

// DriftEvent is something that differed from what was applied.
type DriftEvent struct {
	At     metav1.Time `json:"at"`
	Bundle string      `json:"bundle"`
	Object string      `json:"object"` // "apps/v1 Deployment shop/web"
	// Action is repaired, contested, reported or failed.
	Action  string `json:"action"`
	Message string `json:"message,omitempty"`
}

// MaxDriftEvents and MaxReportSize (bytes of JSON) bound a report, whatever the bundles.
const (
	MaxDriftEvents = 10
	MaxReportSize  = 256 << 10
)

// MaxProblems bounds the problems in a report and in a BundleDeployment.
const MaxProblems = 10

// Problem is one thing that is wrong: where, why from a closed set, and in words.
type Problem struct {
	// Object is "apps/v1 Deployment shop/web", or a stage when no object is concerned.
	Object  string `json:"object,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}
