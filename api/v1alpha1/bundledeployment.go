package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the custom resource.
var GroupVersion = schema.GroupVersion{Group: Group, Version: Version}

// AddToScheme registers the custom resource.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &BundleDeployment{}, &BundleDeploymentList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// Condition types of a BundleDeployment; Ready, Reconciling and Stalled as kstatus reads them.
const (
	ConditionReady       = "Ready"
	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
	ConditionDrifted     = "Drifted"
	// ConditionHeld is there while the version that the target asks for is held back: by a window, a gate, a dependency, or
	// because it failed and was rolled back.
	ConditionHeld = "Held"
	// ConditionTargetRefused is there while the newest target is refused because of this bundle or, where it is refused as
	// a whole, on every bundle: what is shown here is still the one before.
	ConditionTargetRefused = "TargetRefused"
	// ConditionSuspended is there while nothing is done about the bundle, because somebody said so.
	ConditionSuspended = "Suspended"
)

// BundleDeployment is one bundle on this cluster, written by the agent for people and tools to read. Changing it
// changes nothing.
//
// +kubebuilder:object:generate=true
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bd,categories=pinnace
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Objects",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.namespace`
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.status.shortDigest`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BundleDeployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BundleDeploymentSpec   `json:"spec"`
	Status BundleDeploymentStatus `json:"status,omitempty"`
}

// +kubebuilder:object:generate=true
type BundleDeploymentSpec struct {
	// Digest of the bundle's artifact.
	Digest string `json:"digest"`
	// Method is how it is brought to the cluster.
	// +kubebuilder:validation:Enum=apply;release
	Method Method `json:"method"`
	// Namespace receives objects that name none.
	Namespace string `json:"namespace,omitempty"`
	// TargetGeneration is the target that asked for it.
	TargetGeneration int64 `json:"targetGeneration,omitempty"`
}

// +kubebuilder:object:generate=true
type BundleDeploymentStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// State from a closed set: Refused, Failed, Contested, Drifted, Waiting, Updating, Ready.
	State State `json:"state,omitempty"`
	// AppliedDigest is what runs.
	AppliedDigest string `json:"appliedDigest,omitempty"`
	ShortDigest   string `json:"shortDigest,omitempty"`
	// LastGoodDigest is the newest version that was ready here.
	LastGoodDigest string `json:"lastGoodDigest,omitempty"`
	// HeldUntil is when a version that is held back is looked at again.
	HeldUntil *metav1.Time `json:"heldUntil,omitempty"`
	// Summary is ready/all objects.
	Summary string `json:"summary,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Problems are the worst ten.
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	Problems []Problem `json:"problems,omitempty"`
}

// +kubebuilder:object:generate=true
// +kubebuilder:object:root=true
type BundleDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BundleDeployment `json:"items"`
}
