package apply

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Comparison is an object as it should be, as it is, and as it would be after an apply. Live and Merged are nil when
// it is missing. All three hold secrets of a Secret.
type Comparison struct {
	Desired *unstructured.Unstructured
	Live    *unstructured.Unstructured
	Merged  *unstructured.Unstructured
}

// DryRun compares one of the bundle's objects with the cluster, in two requests, and changes nothing.
func (a *Applier) DryRun(ctx context.Context, bundle Bundle, object *unstructured.Unstructured) (Comparison, error) {
	client, mapping, comparison, err := a.observe(ctx, bundle, object)
	if err != nil || comparison.Live == nil {
		return comparison, err
	}
	merged, created, err := client.apply(ctx, mapping, comparison.Desired, applyOptions{manager: bundle.manager(), dryRun: true})
	if err != nil {
		return Comparison{}, fmt.Errorf("dry run of %s: %w", RefOf(comparison.Desired), err)
	}
	if created { // deleted in between
		return Comparison{Desired: comparison.Desired}, nil
	}
	comparison.Merged = merged
	return comparison, nil
}

// observe reads one of the bundle's objects, with the bundle's rights: the comparison has no Merged yet.
func (a *Applier) observe(ctx context.Context, bundle Bundle, object *unstructured.Unstructured) (*client, Mapping, Comparison, error) {
	client, err := a.client(bundle)
	if err != nil {
		return nil, Mapping{}, Comparison{}, err
	}
	desired, err := a.prepareOne(ctx, bundle, object)
	if err != nil {
		return nil, Mapping{}, Comparison{}, err
	}
	ref := RefOf(desired)
	mapping, err := a.kinds.Mapping(ctx, ref)
	if err != nil {
		return nil, Mapping{}, Comparison{}, err
	}
	live, err := client.get(ctx, mapping, ref.Namespace, ref.Name, false)
	switch {
	case apierrors.IsNotFound(err):
		live = nil
	case err != nil:
		return nil, Mapping{}, Comparison{}, fmt.Errorf("read %s: %w", ref, err)
	}
	return client, mapping, Comparison{Desired: desired, Live: live}, nil
}

// Repair applies one of the bundle's objects again, fields of drift ignore rules left as they are.
func (a *Applier) Repair(ctx context.Context, bundle Bundle, object *unstructured.Unstructured) Change {
	ref := RefOf(object)
	client, err := a.client(bundle)
	if err != nil {
		return Change{Object: ref, Action: Failed, Err: err}
	}
	desired, err := a.prepareOne(ctx, bundle, object)
	if err != nil {
		return Change{Object: ref, Action: Failed, Err: err}
	}
	ref = RefOf(desired)
	// Known before: what a tool wrote on an object of ours is drift to undo, not an object to adopt.
	run := &run{Applier: a, client: client, bundle: bundle, prior: map[ID]seen{ref.ID(): {}}}
	action, err := run.object(ctx, desired)
	return Change{Object: ref, Action: action, Err: err}
}

// Accept notes that the object is as it should be, so that only a further change to our fields is an event again.
func (a *Applier) Accept(bundle Bundle, live *unstructured.Unstructured) {
	a.live.applied(live, bundle, a.checks)
}

// Get reads an object with the bundle's rights. The error satisfies apierrors.IsNotFound when it is absent.
func (a *Applier) Get(ctx context.Context, bundle Bundle, ref Ref) (*unstructured.Unstructured, error) {
	client, err := a.client(bundle)
	if err != nil {
		return nil, err
	}
	mapping, err := a.kinds.Any(ctx, ref)
	if err != nil {
		return nil, err
	}
	return client.get(ctx, mapping, ref.Namespace, ref.Name, false)
}
