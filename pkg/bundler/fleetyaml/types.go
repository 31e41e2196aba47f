package fleetyaml

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// fleetYAML is the file as Fleet's users write it: every field that Fleet documents, so that none is taken for a
// misspelt one. Those that Pinnace has nothing for are told from.
type fleetYAML struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`

	options `json:",inline"`

	Paused                  bool             `json:"paused"`
	RolloutStrategy         *rolloutStrategy `json:"rolloutStrategy"`
	DependsOn               []dependency     `json:"dependsOn"`
	TargetCustomizationMode string           `json:"targetCustomizationMode" jsonschema:"enum=FirstMatch,enum=AllMatches"`
	// Targets and TargetCustomizations are one list to Fleet, in this order.
	Targets              []customization `json:"targets"`
	TargetCustomizations []customization `json:"targetCustomizations"`
	// OverrideTargets is nil when absent, which differs from empty.
	OverrideTargets []selection `json:"overrideTargets"`
	ImageScans      []any       `json:"imageScans"`
}

// options may stand at the top and in each customization.
type options struct {
	DefaultNamespace     string            `json:"defaultNamespace"`
	Namespace            string            `json:"namespace"`
	CreateNamespace      *bool             `json:"createNamespace"`
	NamespaceLabels      map[string]string `json:"namespaceLabels"`
	NamespaceAnnotations map[string]string `json:"namespaceAnnotations"`
	ServiceAccount       string            `json:"serviceAccount"`
	YAML                 *yamlOptions      `json:"yaml"`
	Kustomize            *kustomizeOptions `json:"kustomize"`
	Helm                 *helmOptions      `json:"helm"`
	Diff                 *diffOptions      `json:"diff"`
	Ignore               *ignoreOptions    `json:"ignore"`
	CorrectDrift         *correctDrift     `json:"correctDrift"`
	KeepResources        bool              `json:"keepResources"`
	DeleteNamespace      bool              `json:"deleteNamespace"`
	DeleteCRDResources   bool              `json:"deleteCRDResources"`
	ForceSyncGeneration  int64             `json:"forceSyncGeneration"`
	DownstreamResources  []any             `json:"downstreamResources"`
}

type yamlOptions struct {
	Overlays []string `json:"overlays"`
}

type kustomizeOptions struct {
	Dir string `json:"dir"`
}

type helmOptions struct {
	Chart                   string            `json:"chart"`
	Repo                    string            `json:"repo"`
	Version                 string            `json:"version"`
	ReleaseName             string            `json:"releaseName"`
	Values                  v1alpha1.Values   `json:"values"`
	TemplateValues          map[string]string `json:"templateValues"`
	ValuesFiles             []string          `json:"valuesFiles"`
	ValuesFrom              []valuesFrom      `json:"valuesFrom"`
	TimeoutSeconds          int               `json:"timeoutSeconds"`
	MaxHistory              int               `json:"maxHistory"`
	Force                   bool              `json:"force"`
	TakeOwnership           bool              `json:"takeOwnership"`
	WaitForJobs             bool              `json:"waitForJobs"`
	Atomic                  bool              `json:"atomic"`
	DisablePreProcess       bool              `json:"disablePreProcess"`
	DisableDNS              bool              `json:"disableDNS"`
	SkipSchemaValidation    bool              `json:"skipSchemaValidation"`
	DisableDependencyUpdate bool              `json:"disableDependencyUpdate"`
}

// valuesFrom may name both: the ConfigMap first.
type valuesFrom struct {
	ConfigMapKeyRef *keyReference `json:"configMapKeyRef"`
	SecretKeyRef    *keyReference `json:"secretKeyRef"`
}

type keyReference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Key       string `json:"key"`
}

type diffOptions struct {
	ComparePatches []comparePatch `json:"comparePatches"`
}

type comparePatch struct {
	APIVersion   string      `json:"apiVersion"`
	Kind         string      `json:"kind"`
	Name         string      `json:"name"`
	Namespace    string      `json:"namespace"`
	JSONPointers []string    `json:"jsonPointers"`
	Operations   []operation `json:"operations"`
}

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

type ignoreOptions struct {
	Conditions []map[string]string `json:"conditions"`
}

type correctDrift struct {
	Enabled         bool `json:"enabled"`
	Force           bool `json:"force"`
	KeepFailHistory bool `json:"keepFailHistory"`
}

type dependency struct {
	Name           string                `json:"name"`
	Selector       *metav1.LabelSelector `json:"selector"`
	AcceptedStates []string              `json:"acceptedStates"`
}

// selection is a rule over clusters; every field that is set must match.
type selection struct {
	Name                 string                `json:"name"`
	ClusterName          string                `json:"clusterName"`
	ClusterSelector      *metav1.LabelSelector `json:"clusterSelector"`
	ClusterGroup         string                `json:"clusterGroup"`
	ClusterGroupSelector *metav1.LabelSelector `json:"clusterGroupSelector"`
}

type customization struct {
	selection `json:",inline"`
	options   `json:",inline"`

	DoNotDeploy bool `json:"doNotDeploy"`
}

// rolloutStrategy's amounts are numbers or percentages.
type rolloutStrategy struct {
	MaxUnavailable           any         `json:"maxUnavailable"`
	MaxUnavailablePartitions any         `json:"maxUnavailablePartitions"`
	AutoPartitionSize        any         `json:"autoPartitionSize"`
	AutoPartitionThreshold   *int        `json:"autoPartitionThreshold"`
	MaxNew                   *int        `json:"maxNew"`
	Partitions               []partition `json:"partitions"`
}

// partition is a step of a rollout.
type partition struct {
	selection `json:",inline"`

	MaxUnavailable any `json:"maxUnavailable"`
}
