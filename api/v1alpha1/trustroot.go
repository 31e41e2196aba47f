package v1alpha1

// Artifact of a trust root: which keys may do what, in TUF's form.
const (
	ArtifactTypeTrust     = "application/vnd.pinnace.trust.v1"
	MediaTypeTrustRoot    = "application/vnd.pinnace.trust.root.v1+json"
	MediaTypeTrustTargets = "application/vnd.pinnace.trust.targets.v1+json"

	// RepositoryTrust holds the trust root of the fleet: current, and v<n> of every version.
	RepositoryTrust = "trust"
)

// RootOfTrust lets keys change without a visit: the fleet's trust root says which keys may sign what, and is followed
// from one version to the next.
type RootOfTrust struct {
	// File is the root.json that this machine begins with (pinnace trust init), relative to the policy.
	File string `json:"file"`
	// Delegate lets the trust root decide alone about the repositories that its roles name. Otherwise it can only make
	// the policy stricter: both must be satisfied.
	Delegate bool `json:"delegate,omitempty"`
}
