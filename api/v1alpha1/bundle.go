package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bundle is the optional pinnace.yaml in a bundle's folder.
type Bundle struct {
	TypeMeta `json:",inline"`
	Metadata Metadata   `json:"metadata"`
	Spec     BundleSpec `json:"spec,omitempty"`
}

type BundleSpec struct {
	// Namespace receives objects that name none, and the Helm release; created when absent. "default" when empty.
	Namespace string `json:"namespace,omitempty"`

	// One of the three; none means what the folder holds: Chart.yaml, kustomization.yaml or manifests. With helm and
	// kustomize, the kustomization changes what the chart renders; that is applied as manifests.
	Helm      *Helm      `json:"helm,omitempty"`
	Kustomize *Kustomize `json:"kustomize,omitempty"`
	Manifests *Manifests `json:"manifests,omitempty"`

	// Variables replace ${NAME} in manifests that the agent applies; values may be templates. Objects are left
	// alone when no variable is set. Not for Helm releases, which have values.
	Variables map[string]string `json:"variables,omitempty"`
	// VariablesFrom are read at the edge, in order; Variables win over them.
	VariablesFrom []VariablesReference `json:"variablesFrom,omitempty"`

	DependsOn []Dependency `json:"dependsOn,omitempty"`
	// Targets says who gets the bundle: any rule may match. It replaces the source's default.
	Targets []TargetRule `json:"targets,omitempty"`
	// Exclude keeps the bundle from clusters that a target selects.
	Exclude []TargetRule `json:"exclude,omitempty"`
	// Overrides customize per cluster, in order.
	Overrides []Override `json:"overrides,omitempty"`
	// OverrideMode is "merge" (default: all that match, in order) or "first".
	OverrideMode string `json:"overrideMode,omitempty" jsonschema:"enum=merge,enum=first"`
	// Paused leaves clusters with what they have of the bundle; those that don't have it don't get it.
	Paused bool `json:"paused,omitempty"`
	// Rollout says how changes of this bundle spread; its source's, or the fleet's, when nil.
	Rollout *Rollout `json:"rollout,omitempty"`
	// ExtraImages are images that no object names but the bundle needs, such as those that an operator starts.
	ExtraImages []string `json:"extraImages,omitempty"`
	// ImageRules find images in custom resources, beside those of the fleet.
	ImageRules []ImageRule `json:"imageRules,omitempty"`

	DeployOptions `json:",inline"`
}

// DeployOptions say how a bundle is kept on a cluster. They travel in the target.
type DeployOptions struct {
	Drift  Drift  `json:"drift,omitempty"`
	Health Health `json:"health,omitempty"`
	Prune  Prune  `json:"prune,omitempty"`
	// ServiceAccount in the bundle's namespace is impersonated for everything the bundle does.
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Force recreates objects whose immutable fields changed.
	Force bool `json:"force,omitempty"`
	// OnFailure is keep when empty.
	OnFailure OnFailure `json:"onFailure,omitempty" jsonschema:"enum=keep,enum=rollback"`
	// Windows are when a new version may come, beside the cluster's own; the fleet's default when empty, and at any time
	// when that is empty too.
	Windows []Window `json:"windows,omitempty"`
	// NamespaceLabels and NamespaceAnnotations are set on the bundle's namespace, also when it is there already.
	NamespaceLabels      map[string]string `json:"namespaceLabels,omitempty"`
	NamespaceAnnotations map[string]string `json:"namespaceAnnotations,omitempty"`
}

// How a Helm chart reaches the cluster.
const (
	InstallRelease = "release" // the chart is shipped and installed as a Helm release at the edge
	InstallApply   = "apply"   // the chart is rendered by the builder and applied as manifests
)

type Helm struct {
	// Chart is the chart's folder, relative to the bundle's; the bundle's own folder when empty. With Repository it is
	// the chart's name there. It may also be oci://host/path/chart, or the https URL of a packed chart.
	Chart string `json:"chart,omitempty"`
	// Repository holds the chart: oci://host/path, or the https URL of a chart repository (with an index.yaml).
	Repository string `json:"repository,omitempty"`
	// Version is the chart's in its repository, or a range such as ">=1.4 <2", of which the highest is taken once and
	// kept until publish --refresh; the highest of all when empty.
	Version string `json:"version,omitempty"`
	// PlainHTTP reaches an oci:// repository without TLS.
	PlainHTTP bool `json:"plainHTTP,omitempty"`
	// ReleaseName is the bundle's name when empty; at most 53 characters.
	ReleaseName string `json:"releaseName,omitempty"`
	// Values and the files' values may hold ${ } templates over .cluster; values win over files.
	Values      Values   `json:"values,omitempty"`
	ValuesFiles []string `json:"valuesFiles,omitempty"`
	// TemplateValues are values written as text: its ${ } templates are filled in for the cluster, and what comes out is
	// read as YAML. They take the place of values of the same name.
	TemplateValues map[string]string `json:"templateValues,omitempty"`
	// Install is "release" (default) or "apply".
	Install string `json:"install,omitempty" jsonschema:"enum=release,enum=apply"`

	HelmOptions `json:",inline"`
}

// HelmOptions are the release's options; they travel in the target.
type HelmOptions struct {
	// ValuesFrom are read at the edge, in order, below the values of the target.
	ValuesFrom    []ValuesReference `json:"valuesFrom,omitempty"`
	TakeOwnership bool              `json:"takeOwnership,omitempty"`
	// Atomic rolls a failed upgrade back and removes a failed first install.
	Atomic     bool `json:"atomic,omitempty"`
	MaxHistory int  `json:"maxHistory,omitempty"` // releases kept; 5 when zero
	// Timeout for hooks and waiting; 5m when zero.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// SkipCRDs leaves the chart's crds/ folder out; ReplaceCRDs also updates CRDs that exist.
	SkipCRDs    bool `json:"skipCRDs,omitempty"`
	ReplaceCRDs bool `json:"replaceCRDs,omitempty"`
	// DisableHooks leaves the chart's hooks out.
	DisableHooks bool `json:"disableHooks,omitempty"`
	// Test runs the chart's tests after install and upgrade.
	Test bool `json:"test,omitempty"`
}

// ValuesReference is a key of a Secret or ConfigMap in the bundle's namespace; exactly one is set.
type ValuesReference struct {
	SecretKeyRef    *KeyReference `json:"secretKeyRef,omitempty"`
	ConfigMapKeyRef *KeyReference `json:"configMapKeyRef,omitempty"`
}

// VariablesReference is a Secret or ConfigMap in the bundle's namespace, of which every key that is a variable's name
// becomes a variable; exactly one is set.
type VariablesReference struct {
	SecretRef    *VariablesSource `json:"secretRef,omitempty"`
	ConfigMapRef *VariablesSource `json:"configMapRef,omitempty"`
}

type VariablesSource struct {
	Name string `json:"name"`
	// Key takes this one only.
	Key string `json:"key,omitempty"`
	// Prefix is put before the variables' names.
	Prefix string `json:"prefix,omitempty"`
	// Optional goes on without it where it, or its key, doesn't exist.
	Optional bool `json:"optional,omitempty"`
}

type KeyReference struct {
	Name     string `json:"name"`
	Key      string `json:"key,omitempty"` // values.yaml when empty
	Optional bool   `json:"optional,omitempty"`
}

type Kustomize struct {
	// Path is the folder with the kustomization, relative to the bundle's; "." when empty.
	Path string `json:"path,omitempty"`
}

type Manifests struct {
	// Include and Exclude are globs (with **) relative to the bundle's folder; **/*.yaml, **/*.yml and **/*.json
	// are included when Include is empty.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Overlays are folders below overlays/, laid over the manifests in order: a file takes the place of the one with
	// the same path, a patch (web_patch.yaml for web.yaml; JSON or strategic merge) changes it. Files below overlays/
	// are no manifests themselves where this or an override names any.
	Overlays []string `json:"overlays,omitempty"`
}

// Dependency names bundles that must be ready first: exactly one field is set.
type Dependency struct {
	Bundle   string                `json:"bundle,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// Override customizes a bundle for the clusters that When selects.
type Override struct {
	Name string     `json:"name,omitempty"`
	When TargetRule `json:"when"`
	// Skip keeps the bundle from the cluster.
	Skip bool `json:"skip,omitempty"`
	// Namespace replaces the bundle's.
	Namespace string `json:"namespace,omitempty"`
	// Values are merged over the Helm values, maps by key, everything else replaced.
	Values Values `json:"values,omitempty"`
	// TemplateValues are added to those of the bundle; one of the same name takes its place.
	TemplateValues map[string]string `json:"templateValues,omitempty"`
	Variables      map[string]string `json:"variables,omitempty"`
	Kustomize      *Kustomize        `json:"kustomize,omitempty"`
	// Overlays are laid over the manifests after those before.
	Overlays []string `json:"overlays,omitempty"`
}

// Override modes.
const (
	OverrideMerge = "merge"
	OverrideFirst = "first"
)

// DriftMode says what is done when live differs from applied.
type DriftMode string

const (
	DriftCorrect DriftMode = "correct"
	DriftWarn    DriftMode = "warn"
	DriftOff     DriftMode = "off"
)

type Drift struct {
	// Mode is correct when empty.
	Mode   DriftMode     `json:"mode,omitempty" jsonschema:"enum=correct,enum=warn,enum=off"`
	Ignore []DriftIgnore `json:"ignore,omitempty"`
}

// DriftIgnore leaves fields of matching objects alone. Empty fields match all; names may hold *.
type DriftIgnore struct {
	APIVersion   string   `json:"apiVersion,omitempty"`
	Kind         string   `json:"kind,omitempty"`
	Name         string   `json:"name,omitempty"`
	Namespace    string   `json:"namespace,omitempty"`
	JSONPointers []string `json:"jsonPointers"` // RFC 6901
}

type Health struct {
	// Wait for the objects: the bundle is Ready when they are. It is true when nil; when false the bundle is Ready as
	// soon as it is applied, which is what bundles that depend on it wait for, and its objects' health is only counted.
	Wait *bool `json:"wait,omitempty"`
	// Timeout after which what is not ready counts as failed; 5m when zero.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	Checks  []HealthCheck   `json:"checks,omitempty"`
	// IgnoreConditions are left out of an object's status.conditions before it is judged: those that have all fields of
	// one of these, such as {type: Ready, status: "False"}.
	IgnoreConditions []map[string]string `json:"ignoreConditions,omitempty"`
}

// HealthCheck replaces kstatus for one kind by a CEL expression over the object: self.
type HealthCheck struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Ready      string `json:"ready"`
}

type Prune struct {
	// Enabled is true when nil: objects that left the bundle are deleted.
	Enabled *bool `json:"enabled,omitempty"`
	// Keep lists kinds that are never deleted.
	Keep []KeepRule `json:"keep,omitempty"`
	// KeepNamespace keeps the namespace that was created for the bundle.
	KeepNamespace bool `json:"keepNamespace,omitempty"`
}

type KeepRule struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Name       string `json:"name,omitempty"`
}

// BundleConfig is the config blob of a bundle artifact.
type BundleConfig struct {
	TypeMeta `json:",inline"`
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels,omitempty"`
	// Method says what the layer holds: manifests ("apply") or a Helm chart ("release").
	Method Method         `json:"method"`
	Source SourceIdentity `json:"source"`
	// Spec is what the bundle's pinnace.yaml says, in bundles that are built to be an OCI source of other fleets. In
	// a fleet's own bundles it is nil: options travel in the targets, so that changing one changes no digest.
	Spec   *BundleSpec `json:"spec,omitempty"`
	Images []Image     `json:"images,omitempty"`
	// Chart is what a Helm chart's bundle was made of.
	Chart *ChartProvenance `json:"chart,omitempty"`
	// Objects counts what the manifests hold; 0 for charts.
	Objects int `json:"objects,omitempty"`
}

// ImageOptions say how a fleet's container images are found and recorded.
type ImageOptions struct {
	// Digests asks each image's registry for its digest when a bundle is built. What was found is kept until publish
	// --refresh; an image whose registry doesn't answer is recorded without, and reported.
	Digests bool `json:"digests,omitempty"`
	// PlainHTTP lists registries, as host[:port], that are reached without TLS.
	PlainHTTP []string `json:"plainHTTP,omitempty"`
	// Rules find images in custom resources.
	Rules []ImageRule `json:"rules,omitempty"`
}

// ImageRule says where objects of a kind name images.
type ImageRule struct {
	// APIVersion is any when empty; group/* is any version of a group.
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind"`
	// Paths are JSON paths to strings, such as .spec.image or .spec.components[*].image.
	Paths []string `json:"paths"`
}

// ChartProvenance says which chart a bundle was made of.
type ChartProvenance struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Repository and Digest (of the packed chart) are empty for a chart in the source.
	Repository string `json:"repository,omitempty"`
	Digest     string `json:"digest,omitempty"`
	// Dependencies are those that were fetched, not those in the chart itself.
	Dependencies []ChartProvenance `json:"dependencies,omitempty"`
}

// What a [Resolution] is of.
const (
	ResolvedChart = "chart"
	ResolvedImage = "image"
	ResolvedBase  = "base" // of a kustomization
)

// Resolution is what a name that may move was found to mean. It is kept from one publish to the next, until somebody
// asks to look again.
type Resolution struct {
	Kind      string `json:"kind"`
	Reference string `json:"reference"`
	Version   string `json:"version,omitempty"`
	// Digest is of the packed chart or of the image's manifest, Manifest of an OCI chart's; Digest is a base's commit.
	Digest   string `json:"digest,omitempty"`
	Manifest string `json:"manifest,omitempty"`
}

// SourceIdentity says where a bundle comes from, without the commit: same content, same digest.
type SourceIdentity struct {
	Name       string `json:"name"`
	Repository string `json:"repository,omitempty"`
	Path       string `json:"path,omitempty"`
}

// Image is a container image that a bundle names.
type Image struct {
	Reference string `json:"reference"`
	// Digest is what the reference resolved to, when its registry answered.
	Digest string `json:"digest,omitempty"`
	// From names the objects and fields, such as apps/v1 Deployment web: spec.template.spec.containers[0].
	From []string `json:"from,omitempty"`
}
