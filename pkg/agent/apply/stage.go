package apply

import (
	"slices"
	"sort"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Stages, in the order in which they are applied. Removal goes the other way.
const (
	stageNamespaces = iota
	stageCRDs
	stageDefinitions // cluster-wide: roles, classes, priorities
	stageConfiguration
	stageWorkloads
	stageCustom
	stageWebhooks // last: a webhook whose server isn't there yet would refuse everything
	stages
)

// configuration is what workloads refer to.
var configuration = map[string]bool{
	"ServiceAccount": true, "Role": true, "RoleBinding": true, "ConfigMap": true, "Secret": true, "Service": true,
	"PersistentVolumeClaim": true, "ResourceQuota": true, "LimitRange": true, "NetworkPolicy": true,
}

var definitions = map[string]bool{
	"ClusterRole": true, "ClusterRoleBinding": true, "PersistentVolume": true, "CSIDriver": true,
}

// stageOf is pure: a function of the kind.
func stageOf(kind schema.GroupKind) int {
	switch {
	case kind == namespaceKind:
		return stageNamespaces
	case kind == crdKind:
		return stageCRDs
	case kind.Group == "admissionregistration.k8s.io", kind.Group == "apiregistration.k8s.io":
		return stageWebhooks
	case !builtIn(kind.Group):
		return stageCustom
	case definitions[kind.Kind], strings.HasSuffix(kind.Kind, "Class"):
		return stageDefinitions
	case configuration[kind.Kind]:
		return stageConfiguration
	}
	return stageWorkloads
}

// builtIn says whether a group is Kubernetes' own.
func builtIn(group string) bool {
	switch group {
	case "", "apps", "batch", "autoscaling", "policy", "extensions":
		return true
	}
	return strings.HasSuffix(group, ".k8s.io") && strings.Count(group, ".") == 2 // gateway.networking.k8s.io is a CRD's
}

// stage is objects that may be applied at the same time.
type stage struct {
	objects []*unstructured.Unstructured
	settle  bool // the next stage needs these objects to work
}

// inStages returns the stages that have objects, in order; objects within a stage in the order of fluxcd/pkg/ssa.
func inStages(objects []*unstructured.Unstructured) []stage {
	all := make([]stage, stages)
	for _, object := range objects {
		at := stageOf(RefOf(object).GroupKind())
		all[at].objects = append(all[at].objects, object)
	}
	all[stageCRDs].settle = true
	for _, stage := range all {
		sort.Stable(ssa.SortableUnstructureds(stage.objects))
	}
	return slices.DeleteFunc(all, func(s stage) bool { return len(s.objects) == 0 })
}

// removalStages groups refs by stage, last applied first.
func removalStages(refs []Ref) [][]Ref {
	all := make([][]Ref, stages)
	for _, ref := range refs {
		at := stages - 1 - stageOf(ref.ID().groupKind())
		all[at] = append(all[at], ref)
	}
	return slices.DeleteFunc(all, func(refs []Ref) bool { return len(refs) == 0 })
}
