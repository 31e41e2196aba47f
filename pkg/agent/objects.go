package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// ObjectWriter shows in the cluster how its bundles stand. It is called with all of them, one call at a time; what did
// not change since the last call is not written, and what is missing is removed.
type ObjectWriter interface {
	// Prepare does what can be done before there is anything to write; Write does it otherwise.
	Prepare(ctx context.Context) error
	Write(ctx context.Context, deployments []v1alpha1.BundleDeployment) error
}

// Objects writes BundleDeployments, and installs their definition. It lists once; from then on it knows what is there, because nobody else writes them,
// and looks again only after a conflict.
type Objects struct {
	Client client.Client

	installed bool
	mu        sync.Mutex
	known     map[string]*v1alpha1.BundleDeployment // as last read or written
	gone      map[string]*v1alpha1.BundleDeployment // removed by the last write
}

// objectsParallel bounds the requests in flight: a start with 1,000 bundles writes 2,000 times.
const objectsParallel = 16

// Prepare installs the definition, which takes a server a second or more to serve, and reads what is there.
func (o *Objects) Prepare(ctx context.Context) error {
	if o.known != nil {
		return nil
	}
	return o.read(ctx)
}

// Write brings the cluster's BundleDeployments to what is given.
func (o *Objects) Write(ctx context.Context, deployments []v1alpha1.BundleDeployment) error {
	if err := o.Prepare(ctx); err != nil {
		return err
	}
	o.gone = map[string]*v1alpha1.BundleDeployment{}
	wanted := make(map[string]bool, len(deployments))
	unwritten := make([]error, len(deployments))
	var group errgroup.Group
	group.SetLimit(objectsParallel)
	for i := range deployments {
		wanted[deployments[i].Name] = true
		group.Go(func() error {
			if err := o.write(ctx, &deployments[i]); err != nil {
				unwritten[i] = fmt.Errorf("write BundleDeployment %s: %w", deployments[i].Name, err)
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	problems := []error{errors.Join(unwritten...)}
	for name, object := range o.known {
		if wanted[name] {
			continue
		}
		if err := client.IgnoreNotFound(o.Client.Delete(ctx, object)); err != nil {
			problems = append(problems, fmt.Errorf("delete BundleDeployment %s: %w", name, err))
			continue
		}
		delete(o.known, name)
		o.gone[name] = object
	}
	if err := errors.Join(problems...); err != nil {
		o.known = nil // somebody else wrote: look again
		return oneLine(err)
	}
	return nil
}

func (o *Objects) read(ctx context.Context) error {
	if !o.installed {
		if err := install(ctx, o.Client); err != nil {
			return err
		}
		o.installed = true
	}
	var list v1alpha1.BundleDeploymentList
	if err := o.list(ctx, &list); err != nil {
		if unserved(err) {
			return errors.New("the cluster has no BundleDeployments; run kubectl apply -k deploy/crd once, or let the agent create custom resource definitions")
		}
		return fmt.Errorf("list BundleDeployments: %w", err)
	}
	o.known = make(map[string]*v1alpha1.BundleDeployment, len(list.Items))
	for i := range list.Items {
		o.know(&list.Items[i])
	}
	return nil
}

// servedWithin is how long a definition that was just installed may take to be served.
const servedWithin = 10 * time.Second

func (o *Objects) list(ctx context.Context, into *v1alpha1.BundleDeploymentList) error {
	var err error
	for deadline := time.Now().Add(servedWithin); ; {
		if err = o.Client.List(ctx, into); !unserved(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(servedWithin / 40):
		}
	}
}

func unserved(err error) bool { return meta.IsNoMatchError(err) || apierrors.IsNotFound(err) }

func (o *Objects) write(ctx context.Context, want *v1alpha1.BundleDeployment) error {
	o.mu.Lock()
	object := o.known[want.Name]
	o.mu.Unlock()
	switch {
	case object == nil:
		object = &v1alpha1.BundleDeployment{ObjectMeta: want.ObjectMeta, Spec: want.Spec}
		if err := o.Client.Create(ctx, object); err != nil {
			return err
		}
	case object.Spec != want.Spec:
		object = object.DeepCopy()
		object.Spec = want.Spec
		if err := o.Client.Update(ctx, object); err != nil {
			return err
		}
	}
	o.know(object)
	status := merge(object, want.Status)
	if reflect.DeepEqual(object.Status, status) {
		return nil
	}
	object = object.DeepCopy()
	object.Status = status
	if err := o.Client.Status().Update(ctx, object); err != nil {
		return err
	}
	o.know(object)
	return nil
}

// know keeps an object as it is now, without what only the server needs.
func (o *Objects) know(object *v1alpha1.BundleDeployment) {
	object.ManagedFields = nil
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known[object.Name] = object
}

// merge gives a status the observed generation and the transition times of what is there.
func merge(object *v1alpha1.BundleDeployment, next v1alpha1.BundleDeploymentStatus) v1alpha1.BundleDeploymentStatus {
	next.ObservedGeneration = object.Generation
	conditions := object.DeepCopy().Status.Conditions
	conditions = slices.DeleteFunc(conditions, func(known metav1.Condition) bool {
		return meta.FindStatusCondition(next.Conditions, known.Type) == nil
	})
	for _, condition := range next.Conditions {
		condition.ObservedGeneration = object.Generation
		meta.SetStatusCondition(&conditions, condition)
	}
	next.Conditions = conditions
	return next
}

// deployments says how the bundles stand, for the cluster.
func (a *Agent) deployments() []v1alpha1.BundleDeployment {
	out := make([]v1alpha1.BundleDeployment, 0, len(a.units))
	refused := a.refusedTarget()
	for _, one := range a.units {
		deployment := deploymentOf(one)
		if refused != nil && (refused.Bundle == one.name || refused.Bundle == "") {
			deployment.Status.Conditions = append(deployment.Status.Conditions, metav1.Condition{
				Type: v1alpha1.ConditionTargetRefused, Status: metav1.ConditionTrue, Reason: string(refused.Reason),
				Message: clip(oneLine(refused).Error()),
			})
		}
		out = append(out, deployment)
	}
	return out
}

// refusedTarget is why the newest target is refused for what it is; nil when it is not, or could not be fetched.
func (a *Agent) refusedTarget() *Error {
	var typed *Error
	if !errors.As(a.problem, &typed) {
		return nil
	}
	switch typed.Reason {
	case ReasonUnreachable, ReasonUnauthorized, ReasonStateUnwritable:
		return nil
	}
	refused := *typed
	if a.units[refused.Bundle] == nil {
		refused.Bundle = ""
	}
	return &refused
}

// deploymentOf says how one bundle stands, as kstatus reads conditions.
func deploymentOf(one *unit) v1alpha1.BundleDeployment {
	bundle := one.offered
	if bundle == nil {
		bundle = &one.recorded.Bundle
	}
	status := v1alpha1.BundleDeploymentStatus{
		State: one.state, Summary: fmt.Sprintf("%d/%d", one.ready, one.objects), Problems: one.problems,
		ShortDigest: short(bundle.Digest), Conditions: conditions(one), LastGoodDigest: one.recorded.lastGood(),
	}
	if one.held != nil && one.held.state == v1alpha1.StateWaiting && !one.held.until.IsZero() {
		until := metav1.NewTime(one.held.until.UTC().Truncate(time.Second))
		status.HeldUntil = &until
	}
	if one.recorded != nil && one.recorded.Complete {
		status.AppliedDigest = one.recorded.Bundle.Digest
	}
	return v1alpha1.BundleDeployment{
		ObjectMeta: metav1.ObjectMeta{
			Name: one.name, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.FieldManager},
		},
		Spec: v1alpha1.BundleDeploymentSpec{
			Digest: bundle.Digest, Method: bundle.Method, Namespace: bundle.Namespace, TargetGeneration: one.generation,
		},
		Status: status,
	}
}

// conditions puts how a bundle stands into kstatus' words. Ready, Reconciling, Stalled and Drifted are always there,
// the others when they are true.
func conditions(one *unit) []metav1.Condition {
	s := one.standing
	condition := func(kind string, on bool, reason Reason, message string) metav1.Condition {
		status := metav1.ConditionFalse
		if on {
			status = metav1.ConditionTrue
		}
		if reason == "" {
			reason = ReasonReconciling
		}
		return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: clip(message)}
	}
	is := func(states ...v1alpha1.State) bool { return slices.Contains(states, s.state) }
	out := []metav1.Condition{
		condition(v1alpha1.ConditionReady, is(v1alpha1.StateReady, v1alpha1.StateDrifted, v1alpha1.StateContested), s.reason, s.message),
		condition(v1alpha1.ConditionReconciling, is(v1alpha1.StateUpdating, v1alpha1.StateWaiting, ""), s.reason, s.message),
		condition(v1alpha1.ConditionStalled, is(v1alpha1.StateFailed, v1alpha1.StateRefused), s.reason, s.message),
		condition(v1alpha1.ConditionDrifted, is(v1alpha1.StateDrifted, v1alpha1.StateContested), s.reason, s.message),
	}
	if one.held != nil {
		out = append(out, condition(v1alpha1.ConditionHeld, true, one.held.reason, one.held.message))
	}
	if one.suspended {
		out = append(out, condition(v1alpha1.ConditionSuspended, true, ReasonSuspended, suspendedText))
	}
	return out
}

// clip bounds a message: an API server accepts 32,768 characters in a condition.
func clip(text string) string {
	const limit = 1024
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// short is the first twelve characters of a digest's hash, as in the tag of a bundle.
func short(digest string) string {
	_, hash, _ := strings.Cut(digest, ":")
	return hash[:min(len(hash), 12)]
}
