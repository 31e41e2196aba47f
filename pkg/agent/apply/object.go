package apply

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// attempts bounds how often an object is tried again after something in its way was removed.
const attempts = 4

// object applies one prepared object and notes what the server answered.
func (r *run) object(ctx context.Context, object *unstructured.Unstructured) (Action, error) {
	ref := RefOf(object)
	mapping, err := r.kinds.Mapping(ctx, ref)
	if err != nil {
		return Failed, err
	}
	before, known := r.prior[ref.ID()]
	for attempt := 1; ; attempt++ {
		live, created, err := r.once(ctx, mapping, object)
		if err == nil {
			if !created && !known {
				if live, err = r.adopt(ctx, mapping, object, live); err != nil {
					return Failed, err
				}
			}
			r.live.applied(live, r.bundle, r.checks)
			return actionOf(created, before, live), nil
		}
		if attempt == attempts || ctx.Err() != nil {
			return Failed, err
		}
		if err := r.clear(ctx, mapping, object, err); err != nil {
			return Failed, err
		}
	}
}

// once sends one apply, with the fields that are to be left alone taken from the live object.
func (r *run) once(ctx context.Context, mapping Mapping, object *unstructured.Unstructured) (*unstructured.Unstructured, bool, error) {
	pointers, err := r.ignored(ctx, object)
	if err != nil {
		return nil, false, err
	}
	if len(pointers) > 0 {
		live, err := r.client.get(ctx, mapping, object.GetNamespace(), object.GetName(), false)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, false, fmt.Errorf("read before applying: %w", err)
		}
		if err == nil {
			if object, err = keepIgnored(object, live, pointers, r.bundle.manager()); err != nil {
				return nil, false, err
			}
		}
	}
	return r.client.apply(ctx, mapping, object, applyOptions{manager: r.bundle.manager()})
}

// actionOf says what an apply did. An apply that changes nothing leaves the resource version. When others wrote since
// before was read, our own entry of the managed fields and the generation tell; the entry alone doesn't, because its
// time counts seconds.
func actionOf(created bool, before seen, live *unstructured.Unstructured) Action {
	switch {
	case created:
		return Created
	case before.version == live.GetResourceVersion():
		return Unchanged
	case before.print == fingerprint(live) && before.generation != 0 && before.generation == live.GetGeneration():
		return Unchanged
	}
	return Configured
}

// clear removes what made an apply fail, or returns the error when nothing can or may be done.
func (r *run) clear(ctx context.Context, mapping Mapping, object *unstructured.Unstructured, cause error) error {
	switch {
	case apierrors.HasStatusCause(cause, corev1.NamespaceTerminatingCause):
		if err := r.waitGone(ctx, namespaces, "", object.GetNamespace()); err != nil {
			return fmt.Errorf("wait for namespace %s to be gone: %w", object.GetNamespace(), err)
		}
		_, err := r.createNamespace(ctx, object.GetNamespace())
		return err
	case missingNamespace(cause, object) && object.GetNamespace() == r.bundle.namespace():
		_, err := r.createNamespace(ctx, object.GetNamespace())
		return err
	case apierrors.IsNotFound(cause) && stageOf(RefOf(object).GroupKind()) == stageCustom:
		// A CRD that is established takes a moment to be served.
		r.kinds.forget(object.GroupVersionKind())
		return pause(ctx, 300*time.Millisecond)
	case apierrors.IsConflict(cause):
		return nil // somebody wrote between our read and our apply
	case r.mayRecreate(ctx, mapping, object, cause):
		return r.recreate(ctx, mapping, object)
	}
	return cause
}

func missingNamespace(err error, object *unstructured.Unstructured) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || object.GetNamespace() == "" || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == "namespaces"
}

// mayRecreate says whether the object may be deleted and made again: force is set, and the server would take the
// object if it were new. So what is plainly wrong is never deleted first.
func (r *run) mayRecreate(ctx context.Context, mapping Mapping, object *unstructured.Unstructured, cause error) bool {
	if !r.bundle.Options.Force && object.GetAnnotations()[v1alpha1.AnnotationForce] != "true" {
		return false
	}
	if apierrors.IsConflict(cause) || !ssaerrors.IsImmutableError(cause) {
		return false
	}
	trial := object.DeepCopy()
	trial.SetName("")
	trial.SetGenerateName(strings.ToLower(object.GetKind()) + "-")
	_, err := r.client.create(ctx, mapping, trial, true)
	return err == nil
}

func (r *run) recreate(ctx context.Context, mapping Mapping, object *unstructured.Unstructured) error {
	r.live.forget(RefOf(object).ID())
	if _, err := r.client.delete(ctx, mapping, object.GetNamespace(), object.GetName(), ""); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete to recreate: %w", err)
	}
	if err := r.waitGone(ctx, mapping, object.GetNamespace(), object.GetName()); err != nil {
		return fmt.Errorf("delete to recreate: %w", err)
	}
	return nil
}

// tools write objects for people; what they own is taken over when a bundle adopts an object, or their fields that
// the bundle doesn't have would stay for ever.
var tools = []ssa.FieldManager{
	{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationApply},
	{Name: "before-first-apply", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "helm", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "helm", OperationType: metav1.ManagedFieldsOperationApply},
	{Name: "fleetagent", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "fleetagent", OperationType: metav1.ManagedFieldsOperationApply},
	{Name: "kustomize-controller", OperationType: metav1.ManagedFieldsOperationApply},
	{Name: "helm-controller", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "argocd-controller", OperationType: metav1.ManagedFieldsOperationUpdate},
	{Name: "argocd-controller", OperationType: metav1.ManagedFieldsOperationApply},
}

// adopt takes over the fields of tools on an object that was there before the bundle, then applies again, so that
// what they had set and the bundle doesn't is removed.
func (r *run) adopt(ctx context.Context, mapping Mapping, object, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if r.bundle.manager() == HelmManager {
		return live, nil
	}
	patches, err := ssa.PatchReplaceFieldsManagers(live, tools, r.bundle.manager())
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	patches = append(patches, ssa.PatchRemoveAnnotations(live, []string{corev1.LastAppliedConfigAnnotation})...)
	if len(patches) == 0 {
		return live, nil
	}
	body, err := json.Marshal(patches)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	if _, err := r.client.patch(ctx, mapping, object.GetNamespace(), object.GetName(), body, r.bundle.manager()); err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	again, _, err := r.once(ctx, mapping, object)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	return again, nil
}

// established waits until the API server serves a CRD.
func (r *run) established(ctx context.Context, object *unstructured.Unstructured) error {
	mapping, err := r.kinds.Mapping(ctx, RefOf(object))
	if err != nil {
		return err
	}
	ready := func(live *unstructured.Unstructured) bool {
		conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
		for _, condition := range conditions {
			if fields, ok := condition.(map[string]any); ok && fields["type"] == "Established" {
				return fields["status"] == "True"
			}
		}
		return false
	}
	err = r.poll(ctx, func() (bool, error) {
		live, err := r.client.get(ctx, mapping, "", object.GetName(), false)
		if err != nil || !ready(live) {
			return false, err
		}
		r.live.applied(live, r.bundle, r.checks)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait to be established: %w", err)
	}
	return nil
}

// waitGone waits until an object that is being deleted is gone; a new one of that name, which another worker or
// another client may have made since, means that it is.
func (r *run) waitGone(ctx context.Context, mapping Mapping, namespace, name string) error {
	var finalizers []string
	err := r.poll(ctx, func() (bool, error) {
		live, err := r.client.get(ctx, mapping, namespace, name, true)
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		finalizers = live.GetFinalizers()
		return live.GetDeletionTimestamp() == nil, nil
	})
	if errors.Is(err, errTimeout) && len(finalizers) > 0 {
		return fmt.Errorf("%w: finalizers %s hold it; their controller must finish, or remove them",
			err, strings.Join(finalizers, ", "))
	}
	return err
}

var errTimeout = errors.New("took too long")

// poll asks until done, from 50 ms growing to 1 s apart, for at most Options.Wait.
func (a *Applier) poll(ctx context.Context, done func() (bool, error)) error {
	end := time.Now().Add(a.options.Wait)
	for gap := 50 * time.Millisecond; ; gap = min(2*gap, time.Second) {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Now().Add(gap).After(end) {
			return errTimeout
		}
		if err := pause(ctx, gap); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func foldStringData(secret *unstructured.Unstructured) {
	plain, ok, _ := unstructured.NestedStringMap(secret.Object, "stringData")
	if !ok {
		return
	}
	data, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	if data == nil {
		data = map[string]string{}
	}
	for key, value := range plain {
		data[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	unstructured.RemoveNestedField(secret.Object, "stringData")
	_ = unstructured.SetNestedStringMap(secret.Object, data, "data")
}
