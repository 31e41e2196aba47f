// Package render turns a folder and values into Kubernetes objects: raw manifests, Kustomize or a Helm chart.
//
// [Manifests], [Kustomize] and [Template] return [Objects]; [Package] packs a chart as it is and tries whether it
// renders. Renderers read nothing but the [Folder]'s checkout: no environment, no network, no cluster, no clock, no
// other program. The same folder and values give the same bytes ([Objects.Marshal]).
package render

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// MaxObjects stops charts and manifests that make countless objects: no API server takes so many in one piece.
const MaxObjects = 50_000

// Object is a Kubernetes object and where it was found.
type Object struct {
	*unstructured.Unstructured
	// From is the file, with the line where there is one, relative to the source's root.
	From string
}

// String names the object: apps/v1 Deployment shop/web.
func (o Object) String() string {
	name := o.GetName()
	if namespace := o.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Sprintf("%s %s %s", o.GetAPIVersion(), o.GetKind(), name)
}

// identity is what must be unique: the version does not count.
func (o Object) identity() string {
	return strings.Join([]string{o.GroupVersionKind().Group, o.GetKind(), o.GetNamespace(), o.GetName()}, "\x00")
}

// Objects are sorted: namespaces, then custom resource definitions, then all others by group, kind, namespace and name.
type Objects []Object

func rank(o Object) int {
	switch {
	case o.GetAPIVersion() == "v1" && o.GetKind() == "Namespace":
		return 0
	case o.GroupVersionKind().Group == "apiextensions.k8s.io" && o.GetKind() == "CustomResourceDefinition":
		return 1
	}
	return 2
}

// arrange sorts the objects and refuses two of the same identity.
func arrange(objects []Object) (Objects, error) {
	if len(objects) > MaxObjects {
		return nil, fmt.Errorf("%d objects, more than %d; split the bundle", len(objects), MaxObjects)
	}
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.identity(), b.identity()))
	})
	for i := 1; i < len(objects); i++ {
		if first, second := objects[i-1], objects[i]; first.identity() == second.identity() {
			return nil, fmt.Errorf("%s: %s is in %s already; remove one of them", second.From, second, first.From)
		}
	}
	return objects, nil
}

// Marshal writes the objects as one YAML stream with sorted keys.
func (o Objects) Marshal() ([]byte, error) {
	var out bytes.Buffer
	for _, object := range o {
		data, err := yaml.Marshal(object.Object)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", object.From, object, err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return out.Bytes(), nil
}

// Unstructured returns the objects alone.
func (o Objects) Unstructured() []*unstructured.Unstructured {
	out := make([]*unstructured.Unstructured, len(o))
	for i, object := range o {
		out[i] = object.Unstructured
	}
	return out
}
