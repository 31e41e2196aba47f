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

// namespaceManager owns the labels that a bundle asks for on its namespace: those that it no longer asks for go, and
// those of whoever made the namespace stay.
const namespaceManager = v1alpha1.FieldManager + "-namespace"

func namespaceRef(name string) Ref { return Ref{APIVersion: "v1", Kind: "Namespace", Name: name} }

// ownNamespace is the namespace that the bundle needs and doesn't bring itself; none when it certainly is there
// without the bundle. A bundle with a service account gets none: the account lives in it already.
func (r *run) ownNamespace(objects []*unstructured.Unstructured) Inventory {
	name := r.bundle.namespace()
	ref := namespaceRef(name)
	used := false
	for _, object := range objects {
		if RefOf(object).ID() == ref.ID() {
			return nil
		}
		used = used || object.GetNamespace() == name
	}
	before := slices.ContainsFunc(r.bundle.Previous, func(ref Ref) bool { return ref.Namespace == name })
	switch {
	case r.bundle.Previous.Has(ref):
		return Inventory{ref}
	case !used, before, name == "default", r.bundle.Options.ServiceAccount != "":
		return nil
	}
	return Inventory{ref}
}

// firstNamespace creates the bundle's namespace when it may be absent. It returns the namespace when it is the
// bundle's own: created now, or by an earlier apply.
func (r *run) firstNamespace(ctx context.Context, objects []*unstructured.Unstructured) (Inventory, []Change, error) {
	own := r.ownNamespace(objects)
	if len(own) == 0 || r.bundle.Previous.Has(own[0]) {
		return own, nil, r.labelNamespace(ctx, objects)
	}
	created, err := r.createNamespace(ctx, own[0].Name)
	if err == nil {
		err = r.labelNamespace(ctx, objects)
	}
	if err != nil || !created {
		return nil, nil, err
	}
	return own, []Change{{Object: own[0], Action: Created}}, nil
}

// labelNamespace sets the labels and annotations that the bundle asks for on its namespace, whoever made that. One that
// the bundle brings itself is left as it is written.
func (r *run) labelNamespace(ctx context.Context, objects []*unstructured.Unstructured) error {
	options := r.bundle.Options
	if len(options.NamespaceLabels)+len(options.NamespaceAnnotations) == 0 {
		return nil
	}
	ref := namespaceRef(r.bundle.namespace())
	if slices.ContainsFunc(objects, func(object *unstructured.Unstructured) bool { return RefOf(object).ID() == ref.ID() }) {
		return nil
	}
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	namespace.SetName(ref.Name)
	namespace.SetLabels(options.NamespaceLabels)
	namespace.SetAnnotations(options.NamespaceAnnotations)
	if _, _, err := r.client.apply(ctx, namespaces, namespace, applyOptions{manager: namespaceManager}); err != nil {
		return fmt.Errorf("labels of namespace %s: %w", ref.Name, err)
	}
	return nil
}

// Namespace creates the bundle's namespace when it is absent, for those who bring objects by other means. It returns
// the namespace when it is the bundle's own.
func (a *Applier) Namespace(ctx context.Context, bundle Bundle) (Inventory, []Change, error) {
	client, err := a.client(bundle)
	if err != nil {
		return nil, nil, &Error{Bundle: bundle.Name, Err: err}
	}
	run := &run{Applier: a, client: client, bundle: bundle}
	resident := &unstructured.Unstructured{Object: map[string]any{}}
	resident.SetNamespace(bundle.namespace())
	own, changes, err := run.firstNamespace(ctx, []*unstructured.Unstructured{resident})
	if err != nil {
		return nil, nil, &Error{Bundle: bundle.Name, Object: namespaceRef(bundle.namespace()), Err: err}
	}
	return own, changes, nil
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
