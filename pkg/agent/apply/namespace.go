package apply

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
)

var namespaces = Mapping{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, Kind: "Namespace",
}

func namespaceRef(name string) Ref { return Ref{APIVersion: "v1", Kind: "Namespace", Name: name} }

// firstNamespace creates the bundle's namespace when objects go there and none of the bundle's did before. It returns
// the namespace when it is the bundle's own: created now, or by an earlier apply. A bundle with a service account gets
// none: the account lives in it already.
func (r *run) firstNamespace(ctx context.Context, objects []*unstructured.Unstructured) (*Ref, bool, error) {
	name := r.bundle.namespace()
	ref := namespaceRef(name)
	used := false
	for _, object := range objects {
		if RefOf(object).ID() == ref.ID() {
			return nil, false, nil // the bundle brings it itself
		}
		used = used || object.GetNamespace() == name
	}
	switch {
	case r.bundle.Previous.Has(ref):
		return &ref, false, nil
	case !used, name == "default", r.bundle.Options.ServiceAccount != "",
		slices.ContainsFunc(r.bundle.Previous, func(ref Ref) bool { return ref.Namespace == name }):
		return nil, false, nil
	}
	created, err := r.createNamespace(ctx, name)
	if err != nil || !created {
		return nil, false, err
	}
	return &ref, true, nil
}

// createNamespace makes the namespace, labelled as the bundle's; created is false when it is there already.
func (r *run) createNamespace(ctx context.Context, name string) (created bool, err error) {
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name, "labels": map[string]any{
			v1alpha1.LabelManagedBy: v1alpha1.FieldManager, v1alpha1.LabelBundle: r.bundle.Name,
		}},
	}}
	live, err := r.client.create(ctx, namespaces, namespace, false)
	switch {
	case apierrors.IsAlreadyExists(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("create namespace: %w", err)
	}
	r.live.applied(live, r.bundle, r.checks)
	return true, nil
}
