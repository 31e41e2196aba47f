package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AgentConfig sets an agent up. Paths are relative to the file's folder.
type AgentConfig struct {
	TypeMeta `json:",inline"`
	Spec     AgentSpec `json:"spec"`
}

type AgentSpec struct {
	Fleet   string `json:"fleet"`
	Cluster string `json:"cluster"`
	// Registries are prefixes in order of preference: the first that answers wins.
	Registries []Registry `json:"registries"`
	// Interval between polls, jittered by a tenth; the target's, or 5m, when zero.
	Interval metav1.Duration `json:"interval,omitempty"`
	// StateDir keeps verified content, the last good target and inventories.
	StateDir string `json:"stateDir"`
	// TrustPolicy is the policy's file.
	TrustPolicy string `json:"trustPolicy"`
	// StatusKey is the private key (cosign's encrypted format) that status reports are signed with; none are sent
	// when empty. Its password is read from StatusKeyPassword's file, or COSIGN_PASSWORD.
	StatusKey         string `json:"statusKey,omitempty"`
	StatusKeyPassword string `json:"statusKeyPassword,omitempty"`
	// Identities are files with the cluster's age keys, which sealed values and SOPS files are opened with. They are
	// read anew each time, so that a key is rotated without a restart.
	Identities []string `json:"identities,omitempty"`
	// Heartbeat is how often an unchanged status is sent again; 15m when zero.
	Heartbeat metav1.Duration `json:"heartbeat,omitempty"`
	// Kubeconfig is the file to use outside of a cluster; the usual rules when empty.
	Kubeconfig string   `json:"kubeconfig,omitempty"`
	Webhook    *Webhook `json:"webhook,omitempty"`
	// Listen is the address of /healthz, /readyz and /metrics; none when empty.
	Listen string `json:"listen,omitempty"`
	// Standby waits where another agent works on the cluster, or on the same StateDir, and takes its place when that one
	// leaves or dies; an error otherwise.
	Standby bool `json:"standby,omitempty"`
	// DriftInterval is the sweep that catches what a broken watch missed; 10m when zero.
	DriftInterval metav1.Duration `json:"driftInterval,omitempty"`
	// Limits hold for every bundle, whatever the target says.
	Limits []Limit `json:"limits,omitempty"`
}

type Registry struct {
	// Prefix is host[:port]/path, as in Fleet.spec.registry.
	Prefix    string `json:"prefix"`
	PlainHTTP bool   `json:"plainHTTP,omitempty"`
	CAFile    string `json:"caFile,omitempty"`
	// DockerConfig is a file in Docker's config.json format; the user's own when empty.
	DockerConfig string `json:"dockerConfig,omitempty"`
	// TokenHosts are hosts, other than the registry's own, that it may send this agent to for tokens.
	TokenHosts []string `json:"tokenHosts,omitempty"`
}

// Webhook is an HTTP endpoint that makes the agent look now. It never commands anything.
type Webhook struct {
	Listen string `json:"listen"`
	// SecretFile holds the HMAC secret, or the bearer token that a registry sends.
	SecretFile string `json:"secretFile,omitempty"`
}

// Limit holds bundles of matching sources to namespaces and kinds.
type Limit struct {
	Source         string   `json:"source"` // pattern with * over the source's name
	Namespaces     []string `json:"namespaces,omitempty"`
	ServiceAccount string   `json:"serviceAccount,omitempty"`
	ClusterScoped  bool     `json:"clusterScoped,omitempty"` // cluster-scoped kinds are allowed
}
