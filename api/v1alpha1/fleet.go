package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fleet is the document at the root of a fleet repository, in pinnace.yaml.
type Fleet struct {
	TypeMeta `json:",inline"`
	Metadata Metadata  `json:"metadata"`
	Spec     FleetSpec `json:"spec"`
}

type FleetSpec struct {
	// Registry is the prefix of every repository of this fleet: host[:port]/path.
	Registry string `json:"registry"`
	// Inventory lists folders, relative to this file, with Cluster and ClusterGroup documents.
	Inventory []string `json:"inventory"`
	Sources   []Source `json:"sources"`
	// Images says how container images are found and recorded.
	Images   *ImageOptions `json:"images,omitempty"`
	Defaults Defaults      `json:"defaults,omitempty"`
	// Rollout says how changes spread, where neither source nor bundle says otherwise; at once when nil.
	Rollout *Rollout `json:"rollout,omitempty"`
	// ReportedFacts lets expressions use what agents report of their clusters. A cluster can lie about itself, so
	// nothing that carries secrets should depend on it.
	ReportedFacts bool `json:"reportedFacts,omitempty"`
	// Validity is how long a target stays fresh after its issue; 720h when zero.
	Validity metav1.Duration `json:"validity,omitempty"`
	// History is how many publications are kept to go back to (pinnace rollback): 10 when zero, all of them when negative.
	// What only older ones name is removed from the registry, where it allows that.
	History int `json:"history,omitempty"`
}

// Defaults hold for every bundle that doesn't say otherwise.
type Defaults struct {
	Drift Drift `json:"drift,omitempty"`
	// Interval is how often agents poll; 5m when zero. An agent's own configuration wins.
	Interval metav1.Duration `json:"interval,omitempty"`
	// Windows are when new versions may come, of bundles that name no windows of their own.
	Windows []Window `json:"windows,omitempty"`
}

// Source is where bundles come from: a Git repository, an OCI repository, or, with neither, the fleet repository itself.
type Source struct {
	Name string     `json:"name"`
	Git  *GitSource `json:"git,omitempty"`
	OCI  *OCISource `json:"oci,omitempty"`
	// Paths are globs below the source's root; a matching folder with a pinnace.yaml, a Chart.yaml, a
	// kustomization.yaml or manifests is a bundle. Not for an OCI repository that holds a bundle.
	Paths []string `json:"paths,omitempty"`
	// Targets are the default for bundles that name none.
	Targets []TargetRule `json:"targets,omitempty"`
	// Exclude keeps the source's bundles from clusters, whatever the bundles say.
	Exclude  []TargetRule `json:"exclude,omitempty"`
	Restrict *Restrict    `json:"restrict,omitempty"`
	// Rollout says how changes of this source's bundles spread; the fleet's when nil.
	Rollout *Rollout `json:"rollout,omitempty"`
	// RemoteBases are patterns with * over the URLs of repositories that kustomizations of this source may refer to,
	// such as https://github.com/acme/*; none when empty.
	RemoteBases []string `json:"remoteBases,omitempty"`
}

type GitSource struct {
	// URL is https://…, ssh://…, git@host:path, http://… or file://….
	URL string `json:"url"`
	// Ref is what to check out; the remote's HEAD when empty.
	Ref GitRef `json:"ref,omitempty"`
	// Verify refuses revisions without a signature by one of its keys; nil accepts all.
	Verify *GitVerify `json:"verify,omitempty"`
}

// What of a Git revision must be signed.
const (
	GitVerifyCommit       = "commit"
	GitVerifyTag          = "tag"
	GitVerifyTagAndCommit = "tagAndCommit"
)

// GitVerify says whose signatures on commits and tags count.
type GitVerify struct {
	// What must be signed: the commit that is checked out (default), the annotated tag that leads to it, or both.
	What string `json:"what,omitempty" jsonschema:"enum=commit,enum=tag,enum=tagAndCommit"`
	// Keys: a signature by any of them counts.
	Keys []GitKey `json:"keys"`
}

// GitKey is a public key in OpenPGP's armoured form (-----BEGIN PGP PUBLIC KEY BLOCK-----; it may hold several), or an
// SSH key as in authorized_keys.
type GitKey struct {
	Name string `json:"name"`
	// PublicKey is the key itself; File a path to it, relative to the fleet's root. Exactly one is set.
	PublicKey string `json:"publicKey,omitempty"`
	File      string `json:"file,omitempty"`
}

// OCISource is an artifact that another CI pushed: a bundle (pinnace build --push), which is used as it is, or files in
// Flux's format (flux push artifact), in which paths find bundles.
type OCISource struct {
	// Repository is host[:port]/path, such as registry.example.com/ci/bundles/shop.
	Repository string `json:"repository"`
	Ref        OCIRef `json:"ref"`
	// Verify says whose signatures count; an artifact without them is refused. Key files are relative to the fleet's root.
	Verify Signers `json:"verify"`
	// PlainHTTP reaches this registry without TLS.
	PlainHTTP bool `json:"plainHTTP,omitempty"`
}

// OCIRef names one artifact: exactly one field is set.
type OCIRef struct {
	Tag string `json:"tag,omitempty"`
	// Semver is a range over the tags, such as ">=1.4 <2": the highest wins.
	Semver string `json:"semver,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// GitRef names one revision: at most one field is set.
type GitRef struct {
	Branch string `json:"branch,omitempty"`
	Tag    string `json:"tag,omitempty"`
	// Semver is a range over the tags, such as ">=1.4 <2": the highest wins.
	Semver string `json:"semver,omitempty"`
	Commit string `json:"commit,omitempty"`
}

// Restrict limits what bundles of a source may do on a cluster; builder and agent both enforce it.
type Restrict struct {
	// Namespaces are patterns with *; empty allows every namespace and cluster-scoped objects.
	Namespaces     []string `json:"namespaces,omitempty"`
	ServiceAccount string   `json:"serviceAccount,omitempty"`
}

// Cluster is one Kubernetes cluster of the fleet.
type Cluster struct {
	TypeMeta `json:",inline"`
	Metadata Metadata    `json:"metadata"`
	Spec     ClusterSpec `json:"spec,omitempty"`
}

type ClusterSpec struct {
	// Values are free data for templates: .cluster.values.
	Values Values `json:"values,omitempty"`
	// Recipients are this cluster's public keys (age1…), which secret values are sealed to: pinnace keys generate --age
	// makes one. There are two while the cluster's key is rotated.
	Recipients []string `json:"recipients,omitempty"`
	// StatusKey is the PEM public key that the cluster's status reports are signed with.
	StatusKey string `json:"statusKey,omitempty"`
	// Windows are when anything new may come to this cluster, beside the bundles' own.
	Windows []Window `json:"windows,omitempty"`
}

// ClusterGroup is a named selector over clusters.
type ClusterGroup struct {
	TypeMeta `json:",inline"`
	Metadata Metadata         `json:"metadata"`
	Spec     ClusterGroupSpec `json:"spec"`
}

type ClusterGroupSpec struct {
	Selector metav1.LabelSelector `json:"selector"`
}

// TargetRule selects clusters; every field that is set must match. The empty rule selects all.
type TargetRule struct {
	// Name appears in explanations.
	Name         string `json:"name,omitempty"`
	ClusterName  string `json:"clusterName,omitempty"`
	ClusterGroup string `json:"clusterGroup,omitempty"`
	// ClusterGroupSelector selects the clusters of every group with matching labels.
	ClusterGroupSelector *metav1.LabelSelector `json:"clusterGroupSelector,omitempty"`
	ClusterSelector      *metav1.LabelSelector `json:"clusterSelector,omitempty"`
	// Expression is CEL over cluster (name, labels, annotations, values) and, where the fleet allows it, reported
	// (kubernetes and agent: versions; kubernetesMinor and nodes: numbers; architectures: a list):
	// "cluster.labels.tier == 'edge' && 'arm64' in reported.architectures". It must yield a boolean; a key that the
	// cluster doesn't have makes it false.
	Expression string `json:"expression,omitempty"`
	// AllowEmpty accepts a rule that selects no cluster, which is an error otherwise.
	AllowEmpty bool `json:"allowEmpty,omitempty"`
}
