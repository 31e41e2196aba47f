// Package v1alpha1 holds the types that users write in Git, that artifacts carry and that the edge cluster stores.
//
// A [Fleet] names sources and folders of [Cluster] and [ClusterGroup] documents. A [Bundle] is one deployable of a
// source. From these a publish computes one [Target] per cluster, which an agent, set up by an [AgentConfig] and a
// [TrustPolicy], turns into [BundleDeployment] objects and what they describe. [StatusReport] travels back and
// [FleetIndex] says what was published.
//
// The package does no I/O and has no clients.
//
// +kubebuilder:object:generate=false
// +groupName=pinnace.dev
package v1alpha1

// Group and version of every document, and the kinds.
const (
	Group      = "pinnace.dev"
	Version    = "v1alpha1"
	APIVersion = Group + "/" + Version

	KindFleet            = "Fleet"
	KindCluster          = "Cluster"
	KindClusterGroup     = "ClusterGroup"
	KindBundle           = "Bundle"
	KindTarget           = "Target"
	KindBundleConfig     = "BundleConfig"
	KindFleetIndex       = "FleetIndex"
	KindStatusReport     = "StatusReport"
	KindRolloutPlan      = "RolloutPlan"
	KindRolloutGate      = "RolloutGate"
	KindRolloutConsent   = "RolloutConsent"
	KindAgentConfig      = "AgentConfig"
	KindTrustPolicy      = "TrustPolicy"
	KindBundleDeployment = "BundleDeployment"
)

// TypeMeta opens every document.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Metadata names a document. Names are DNS labels: at most 63 characters of a-z, 0-9 and -.
type Metadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}
