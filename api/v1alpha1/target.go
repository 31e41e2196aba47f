package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Method says how the agent brings a bundle to the cluster.
type Method string

const (
	MethodApply   Method = "apply"   // server-side apply of manifests
	MethodRelease Method = "release" // Helm release
)

// Target says what exactly one cluster runs. It is signed; agents apply nothing else.
type Target struct {
	TypeMeta `json:",inline"`
	Fleet    string `json:"fleet"`
	Cluster  string `json:"cluster"`
	// Generation increases strictly; an agent never goes back.
	Generation int64       `json:"generation"`
	IssuedAt   metav1.Time `json:"issuedAt"`
	ExpiresAt  metav1.Time `json:"expiresAt"`
	// Interval is the poll interval that the fleet asks for.
	Interval metav1.Duration `json:"interval,omitempty"`
	// AllowPrune permits removing more than half of what runs. It holds for this generation only.
	AllowPrune bool `json:"allowPrune,omitempty"`
	// Windows are the cluster's own: outside of them nothing new comes, whatever the bundles' windows say.
	Windows []Window       `json:"windows,omitempty"`
	Bundles []TargetBundle `json:"bundles"`
	// Rollouts are changes that wait for their gates, sorted by name. No bundle is in two of them.
	Rollouts []TargetRollout `json:"rollouts,omitempty"`
}

// TargetBundle is one bundle as one cluster gets it. Bundles are sorted by name.
type TargetBundle struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Repository is relative to the fleet's prefix, so that a mirror with another name serves the same bytes.
	Repository string `json:"repository"`
	// Digest is the artifact manifest's, LayerDigest its only layer's.
	Digest      string         `json:"digest"`
	LayerDigest string         `json:"layerDigest"`
	Method      Method         `json:"method"`
	Namespace   string         `json:"namespace"`
	Source      SourceIdentity `json:"source"`
	// Release is set for MethodRelease only.
	Release   *TargetRelease    `json:"release,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
	// VariablesFrom are read at the edge, below Variables.
	VariablesFrom []VariablesReference `json:"variablesFrom,omitempty"`
	// Sealed are the values and variables that only this cluster can read; placeholders stand in their places.
	Sealed []SealedValues `json:"sealed,omitempty"`
	// DependsOn lists bundles of this target, selectors resolved.
	DependsOn []string  `json:"dependsOn,omitempty"`
	Restrict  *Restrict `json:"restrict,omitempty"`

	DeployOptions `json:",inline"`
}

type TargetRelease struct {
	Name        string `json:"name"`
	Values      Values `json:"values,omitempty"`
	HelmOptions `json:",inline"`
}

// FleetIndex says what a publish left in the registry: the builder's memory, and what status reads.
type FleetIndex struct {
	TypeMeta `json:",inline"`
	Fleet    string `json:"fleet"`
	// Publication increases by one with each publish that changed something; Parent is the index before it.
	Publication int64          `json:"publication"`
	Parent      string         `json:"parent,omitempty"`
	IssuedAt    metav1.Time    `json:"issuedAt"`
	Sources     []IndexSource  `json:"sources"`
	Bundles     []IndexBundle  `json:"bundles"`
	Clusters    []IndexCluster `json:"clusters"`
	// History is how many publications are kept; see FleetSpec.
	History int `json:"history,omitempty"`
	// Retired are bundles' artifacts that no cluster gets any more. They are removed with the last publication that names
	// them.
	Retired []RetiredBundle `json:"retired,omitempty"`
	// Departed are clusters that left the fleet and may still run their last target: until it expires.
	Departed []IndexCluster `json:"departed,omitempty"`
	// Resolved is what charts' versions, images' tags and remote bases meant when they were looked up.
	Resolved []Resolution `json:"resolved,omitempty"`
}

type IndexSource struct {
	Name       string `json:"name"`
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	// Failed says why the source could not be read: its bundles are those of Commit, an earlier one.
	Failed string `json:"failed,omitempty"`
}

// IndexBundle is one variant of a bundle.
type IndexBundle struct {
	Name string `json:"name"`
	// Key is the hash of the render inputs: a variant with the same key need not be rendered again.
	Key         string `json:"key"`
	Digest      string `json:"digest"`
	LayerDigest string `json:"layerDigest"`
	Method      Method `json:"method"`
	Source      string `json:"source"`
	// Commit is the source's when the digest was first published.
	Commit string `json:"commit,omitempty"`
}

type IndexCluster struct {
	Name       string            `json:"name"`
	Labels     map[string]string `json:"labels,omitempty"`
	StatusKey  string            `json:"statusKey,omitempty"`
	Generation int64             `json:"generation"`
	Digest     string            `json:"digest"`
	// Content is the hash of what the fleet repository asks for, without generation and times.
	Content   string      `json:"content"`
	ExpiresAt metav1.Time `json:"expiresAt"`
	// Rollouts are those that the target announces.
	Rollouts []IndexRollout `json:"rollouts,omitempty"`
	Bundles  []string       `json:"bundles,omitempty"`
}

// RetiredBundle is an artifact that was in use until the publication before Since.
type RetiredBundle struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Since  int64  `json:"since"`
}
