package apply

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Replicas is where workloads say how many pods they want, and what an autoscaler writes.
const Replicas = "/spec/replicas"

// Autoscaled says whether a HorizontalPodAutoscaler of the object's namespace scales it: one request. From then on
// applying the object asks again, and leaves its replicas as they are while there is one.
func (a *Applier) Autoscaled(ctx context.Context, bundle Bundle, ref Ref) (bool, error) {
	client, err := a.client(bundle)
	if err != nil {
		return false, err
	}
	mapping, err := a.kinds.Mapping(ctx, Ref{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"})
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found := false
	_, err = client.list(ctx, mapping, ref.Namespace, selection{}, false, 0, func(autoscaler *unstructured.Unstructured) {
		found = found || scales(autoscaler, ref)
	})
	if apierrors.IsForbidden(err) {
		err = nil // an identity that may not know is not told
	}
	if err == nil {
		a.live.autoscale(ref, found)
	}
	return found, err
}

func scales(autoscaler *unstructured.Unstructured, ref Ref) bool {
	target, _, _ := unstructured.NestedStringMap(autoscaler.Object, "spec", "scaleTargetRef")
	return target["kind"] == ref.Kind && target["name"] == ref.Name && group(target["apiVersion"]) == ref.ID().Group
}

func (t *table) autoscale(ref Ref, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.objects[ref.ID()]; ok {
		e.autoscaled = on
	}
}

// ignored returns the pointers of an object's fields that are to be left alone: those of the bundle's rules, and the
// replicas of what is autoscaled still.
func (r *run) ignored(ctx context.Context, object *unstructured.Unstructured) ([]string, error) {
	pointers := IgnoredPointers(r.bundle.Options.Drift.Ignore, object)
	ref := RefOf(object)
	r.live.mu.RLock()
	e, known := r.live.objects[ref.ID()]
	scaled := known && e.autoscaled
	r.live.mu.RUnlock()
	if !scaled {
		return pointers, nil
	}
	scaled, err := r.Autoscaled(ctx, r.bundle, ref)
	if scaled {
		pointers = append(slices.Clone(pointers), Replicas)
	}
	return pointers, err
}
