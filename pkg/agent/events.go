package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Event is something that happened to a bundle or, without one, to the target.
type Event struct {
	Bundle  string
	Warning bool
	Reason  Reason
	Message string
}

// EventWriter shows in the cluster what happened. It is called with what is new, one call at a time, after the bundles
// were written as they stand.
type EventWriter interface {
	Emit(ctx context.Context, events []Event) error
}

// maxEvents bounds what is kept while the cluster doesn't take it; the oldest goes first.
const maxEvents = 256

// tell notes an event, to be written soon.
func (a *Agent) tell(event Event) {
	if a.cfg.Events == nil {
		return
	}
	if len(a.events) == maxEvents {
		a.events = a.events[1:]
	}
	event.Message = clip(event.Message)
	a.events = append(a.events, event)
	a.objects.touch(a.now().Add(objectsDebounce))
}

// tellStanding tells how a bundle stands when that is another matter than before. Being applied is none, and being
// ready only where it wasn't.
func (a *Agent) tellStanding(one *unit) {
	if one.state == v1alpha1.StateUpdating || one.state == "" {
		return
	}
	matter := string(one.state) + " " + string(one.reason)
	if one.held != nil && one.offered != nil {
		matter += " " + one.offered.Digest
	}
	before := one.told
	if one.told = matter; before == matter {
		return
	}
	event := Event{Bundle: one.name, Reason: one.reason, Message: one.message}
	switch one.state {
	case v1alpha1.StateReady:
		if before == "" {
			return // its being applied was told
		}
		event.Message = fmt.Sprintf("all %d objects are ready", one.objects)
	case v1alpha1.StateWaiting:
	default:
		event.Warning = true
	}
	a.tell(event)
}

// tellApplied tells what an apply or a removal changed.
func (a *Agent) tellApplied(one *unit, done outcome) {
	counts := map[apply.Action]int{}
	for _, change := range done.result.Changes {
		counts[change.Action]++
	}
	if deleted := counts[apply.Deleted]; deleted > 0 {
		a.tell(Event{Bundle: one.name, Reason: ReasonPruned, Message: fmt.Sprintf("%d objects deleted", deleted)})
	}
	delete(counts, apply.Deleted)
	delete(counts, apply.Unchanged)
	delete(counts, apply.Skipped)
	if done.err != nil || done.removed || len(counts) == 0 {
		return
	}
	var parts []string
	for _, action := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[action], action))
	}
	a.tell(Event{
		Bundle: one.name, Reason: ReasonApplied,
		Message: fmt.Sprintf("version %s applied: %s", short(done.record.Bundle.Digest), strings.Join(parts, ", ")),
	})
}

// eventSource is who reports events.
const eventSource = "pinnace-agent"

// Recorder writes Kubernetes Events: of a bundle on its BundleDeployment, of the target on the agent's Lease. Equal and
// similar ones are counted up in one Event, and each object gets at most 25 at once and one in five minutes after that.
type Recorder struct {
	Client client.Client
	// Objects knows the bundles' objects.
	Objects *Objects
	// Namespace holds the Lease; DefaultNamespace when empty.
	Namespace string

	correlator *record.EventCorrelator
	lease      *corev1.ObjectReference
	refused    bool // the agent may not write events: that is said once
}

var _ EventWriter = (*Recorder)(nil)

// Emit writes events. One that cannot be written is dropped: it says nothing that the status doesn't.
func (r *Recorder) Emit(ctx context.Context, events []Event) error {
	if r.correlator == nil {
		r.correlator = record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{})
	}
	var problems []error
	for _, event := range events {
		about, err := r.about(ctx, event)
		if err != nil || about == nil {
			problems = append(problems, err)
			continue
		}
		if err := r.write(ctx, r.compose(event, about)); err != nil {
			problems = append(problems, err)
			if apierrors.IsForbidden(err) {
				break // the others will be, too
			}
		}
	}
	err := errors.Join(problems...)
	if apierrors.IsForbidden(err) {
		if r.refused {
			return nil
		}
		r.refused = true
	}
	if err != nil {
		return fmt.Errorf("write events: %w", oneLine(err))
	}
	return nil
}

// about names the object that an event is about; nil when it isn't there.
func (r *Recorder) about(ctx context.Context, event Event) (*corev1.ObjectReference, error) {
	if event.Bundle != "" {
		return r.Objects.reference(event.Bundle), nil
	}
	if r.lease == nil {
		lease := &coordinationv1.Lease{}
		if err := r.Client.Get(ctx, client.ObjectKey{Namespace: r.namespace(), Name: LeaseName}, lease); err != nil {
			return nil, err
		}
		r.lease = &corev1.ObjectReference{
			APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease", Namespace: lease.Namespace, Name: lease.Name, UID: lease.UID,
		}
	}
	return r.lease, nil
}

func (r *Recorder) namespace() string {
	if r.Namespace == "" {
		return DefaultNamespace
	}
	return r.Namespace
}

// compose makes the Event; those of cluster-scoped objects live in the namespace default.
func (r *Recorder) compose(event Event, about *corev1.ObjectReference) *corev1.Event {
	now := metav1.Now()
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	kind := corev1.EventTypeNormal
	if event.Warning {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", about.Name, time.Now().UnixNano())},
		InvolvedObject: *about, Type: kind, Reason: string(event.Reason), Message: event.Message,
		Source: corev1.EventSource{Component: eventSource}, ReportingController: eventSource,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}

func (r *Recorder) write(ctx context.Context, event *corev1.Event) error {
	result, err := r.correlator.EventCorrelate(event)
	if err != nil || result.Skip {
		return err
	}
	written := result.Event
	if written.Count > 1 {
		known := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: written.Namespace, Name: written.Name}}
		err := r.Client.Patch(ctx, known, client.RawPatch(types.StrategicMergePatchType, result.Patch))
		if err == nil {
			r.correlator.UpdateState(known)
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		written.ResourceVersion = "" // it expired on the server
	}
	if err := r.Client.Create(ctx, written); err != nil {
		return err
	}
	r.correlator.UpdateState(written)
	return nil
}

// reference names the object of a bundle, also of one that was just removed; nil when it was never there.
func (o *Objects) reference(bundle string) *corev1.ObjectReference {
	object := o.known[bundle]
	if object == nil {
		object = o.gone[bundle]
	}
	if object == nil {
		return nil
	}
	return &corev1.ObjectReference{
		APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleDeployment, Name: object.Name, UID: object.UID,
	}
}
