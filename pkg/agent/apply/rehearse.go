package apply

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Rehearse lets the cluster say what applying one of the bundle's objects would make of it, and changes nothing. Unlike
// [Applier.DryRun] it also asks about objects that are not there: the server validates and defaults them, and its
// webhooks have their say. What goes to a namespace that doesn't exist yet is tried in another one.
func (a *Applier) Rehearse(ctx context.Context, bundle Bundle, object *unstructured.Unstructured) (Comparison, error) {
	client, mapping, comparison, err := a.observe(ctx, bundle, object)
	if err != nil {
		return Comparison{}, err
	}
	desired, ref := comparison.Desired, RefOf(comparison.Desired)
	options := applyOptions{manager: bundle.manager(), dryRun: true}
	comparison.Merged, _, err = client.apply(ctx, mapping, desired, options)
	if apierrors.IsNotFound(err) && comparison.Live == nil && ref.Namespace != "" {
		elsewhere := desired.DeepCopy()
		elsewhere.SetNamespace(metav1.NamespaceDefault)
		if comparison.Merged, _, err = client.apply(ctx, mapping, elsewhere, options); err == nil {
			comparison.Merged.SetNamespace(ref.Namespace)
		}
	}
	if err != nil {
		return Comparison{}, fmt.Errorf("dry run of %s: %w", ref, err)
	}
	return comparison, nil
}
