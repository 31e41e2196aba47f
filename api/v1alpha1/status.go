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

// MaxProblems bounds the problems in a report and in a BundleDeployment.
const MaxProblems = 10

// Problem is one thing that is wrong: where, why from a closed set, and in words.
type Problem struct {
	// Object is "apps/v1 Deployment shop/web", or a stage when no object is concerned.
	Object  string `json:"object,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}
