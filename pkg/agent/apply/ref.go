package apply

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ref names an object in a cluster. Namespace is empty for cluster-scoped kinds.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// RefOf names the object.
func RefOf(object *unstructured.Unstructured) Ref {
	return Ref{
		APIVersion: object.GetAPIVersion(), Kind: object.GetKind(),
		Namespace: object.GetNamespace(), Name: object.GetName(),
	}
}

// String is "apps/v1 Deployment shop/web".
func (r Ref) String() string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	return fmt.Sprintf("%s %s %s", r.APIVersion, r.Kind, name)
}

// GroupKind of the object's type.
func (r Ref) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: group(r.APIVersion), Kind: r.Kind}
}

func group(apiVersion string) string {
	before, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return before
}

// ID is what makes two Refs the same object: neither the version nor a move between API groups changes it.
type ID struct{ Group, Kind, Namespace, Name string }

// moved lists kinds that left the group extensions: the same object is served under both names.
var moved = map[string]string{
	"Deployment": "apps", "DaemonSet": "apps", "ReplicaSet": "apps",
	"Ingress": "networking.k8s.io", "NetworkPolicy": "networking.k8s.io", "PodSecurityPolicy": "policy",
}

// ID of the object.
func (r Ref) ID() ID {
	id := ID{Group: group(r.APIVersion), Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	if to, ok := moved[r.Kind]; ok && id.Group == "extensions" {
		id.Group = to
	}
	return id
}

func (i ID) groupKind() schema.GroupKind { return schema.GroupKind{Group: i.Group, Kind: i.Kind} }

// Inventory lists what a bundle applied: one entry per object, sorted. It is stored as JSON.
type Inventory []Ref

// InventoryOf returns the objects' sorted inventory.
func InventoryOf(refs ...Ref) Inventory { return Inventory(nil).Union(refs) }

// Has says whether the object is listed, under any version.
func (i Inventory) Has(ref Ref) bool {
	id := ref.ID()
	return slices.ContainsFunc(i, func(other Ref) bool { return other.ID() == id })
}

// Union returns what is in either; for objects in both, the version that more has.
func (i Inventory) Union(more []Ref) Inventory {
	byID := make(map[ID]Ref, len(i)+len(more))
	for _, list := range [][]Ref{i, more} {
		for _, ref := range list {
			byID[ref.ID()] = ref
		}
	}
	out := make(Inventory, 0, len(byID))
	for _, ref := range byID {
		out = append(out, ref)
	}
	out.sort()
	return out
}

// Minus returns what is not in other.
func (i Inventory) Minus(other []Ref) Inventory {
	gone := make(map[ID]bool, len(other))
	for _, ref := range other {
		gone[ref.ID()] = true
	}
	var out Inventory
	for _, ref := range i {
		if !gone[ref.ID()] {
			out = append(out, ref)
		}
	}
	out.sort()
	return out
}

// sort by group, kind, namespace and name.
func (i Inventory) sort() {
	slices.SortFunc(i, func(a, b Ref) int {
		x, y := a.ID(), b.ID()
		return cmp.Or(cmp.Compare(x.Group, y.Group), cmp.Compare(x.Kind, y.Kind),
			cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
}
