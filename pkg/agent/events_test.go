package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// eventsOf lists a cluster's events: object, type, reason, message and how often.
func eventsOf(t *testing.T, cluster client.Client) []string {
	t.Helper()
	var list corev1.EventList
	if err := cluster.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, one := range list.Items {
		out = append(out, fmt.Sprintf("%s/%s %s %s %s (%d)", one.Namespace, one.InvolvedObject.Name, one.Type, one.Reason, one.Message, one.Count))
	}
	return out
}

func recorderOn(t *testing.T, cluster client.WithWatch, bundles ...string) *Recorder {
	t.Helper()
	objects := &Objects{Client: cluster, known: map[string]*v1alpha1.BundleDeployment{}}
	for _, name := range bundles {
		objects.known[name] = &v1alpha1.BundleDeployment{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "1"}}
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName, Namespace: DefaultNamespace}}
	if err := cluster.Create(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	return &Recorder{Client: cluster, Objects: objects}
}

func TestRecorder(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	recorder := recorderOn(t, cluster, "web")
	emit := func(events ...Event) {
		t.Helper()
		if err := recorder.Emit(t.Context(), events); err != nil {
			t.Fatal(err)
		}
	}
	failed := Event{Bundle: "web", Warning: true, Reason: ReasonTimedOut, Message: "not ready"}
	emit(Event{Bundle: "web", Reason: ReasonApplied, Message: "3 created"}, failed, Event{Bundle: "gone", Reason: ReasonReady})
	emit(failed)
	emit(failed, Event{Reason: ReasonTargetTaken, Message: "generation 2"})
	got := strings.Join(eventsOf(t, cluster), "\n")
	for _, want := range []string{
		"default/web Normal Applied 3 created (1)", "default/web Warning TimedOut not ready (3)",
		"pinnace-system/pinnace-agent Normal TargetTaken generation 2 (1)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("events:\n%s\nwant %s", got, want)
		}
	}
	if count := strings.Count(got, "\n") + 1; count != 3 {
		t.Errorf("%d events, want 3:\n%s", count, got)
	}
}

// A bundle that fails in ever other ways must not write without end.
func TestRecorderIsBounded(t *testing.T) {
	t.Parallel()
	writes := 0
	cluster := fakeCluster(t, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.CreateOption) error {
			writes++
			return c.Create(ctx, object, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, opts ...client.PatchOption) error {
			writes++
			return c.Patch(ctx, object, patch, opts...)
		},
	})
	recorder := recorderOn(t, cluster, "web")
	writes = 0
	for i := range 1000 {
		event := Event{Bundle: "web", Warning: true, Reason: ReasonApplyFailed, Message: fmt.Sprintf("try %d", i)}
		if err := recorder.Emit(t.Context(), []Event{event}); err != nil {
			t.Fatal(err)
		}
	}
	if writes > 30 {
		t.Errorf("%d writes for 1000 events at once, want at most 30", writes)
	}
}

// An agent that may not write events says so once.
func TestRecorderForbidden(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.CreateOption) error {
			if _, is := object.(*corev1.Event); is {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, object.GetName(), nil)
			}
			return c.Create(ctx, object, opts...)
		},
	})
	recorder := recorderOn(t, cluster, "web", "db")
	events := []Event{{Bundle: "web", Reason: ReasonApplied}, {Bundle: "db", Reason: ReasonApplied}}
	if err := recorder.Emit(t.Context(), events); !apierrors.IsForbidden(err) {
		t.Errorf("Emit: %v, want forbidden", err)
	}
	if err := recorder.Emit(t.Context(), events); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

// told gathers events as the loop makes them.
func told(run func(a *Agent)) []string {
	a := New(Config{State: &State{}, Events: &Recorder{}})
	run(a)
	var out []string
	for _, event := range a.events {
		out = append(out, fmt.Sprintf("%s %v %s: %s", event.Bundle, event.Warning, event.Reason, event.Message))
	}
	return out
}

func TestStandingIsToldWhenItIsAnotherMatter(t *testing.T) {
	t.Parallel()
	got := told(func(a *Agent) {
		one := unitsOf("web updating")["web"]
		for _, s := range []standing{
			{state: v1alpha1.StateUpdating},
			{state: v1alpha1.StateReady, reason: ReasonReady, objects: 2}, // being applied was told
			{state: v1alpha1.StateFailed, reason: ReasonTimedOut, message: "0 of 1"},
			{state: v1alpha1.StateUpdating},
			{state: v1alpha1.StateFailed, reason: ReasonTimedOut, message: "0 of 2"}, // the same matter
			{state: v1alpha1.StateReady, reason: ReasonReady, objects: 2},
			{state: v1alpha1.StateContested, reason: ReasonContested, message: "by hpa"},
		} {
			one.stand(s, noon)
			a.tellStanding(one)
		}
	})
	want := []string{
		"web true TimedOut: 0 of 1", "web false Ready: all 2 objects are ready", "web true Contested: by hpa",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestEventsAreBoundedWhileTheClusterIsAway(t *testing.T) {
	t.Parallel()
	got := told(func(a *Agent) {
		for i := range 2 * maxEvents {
			a.tell(Event{Bundle: "web", Reason: ReasonApplied, Message: fmt.Sprint(i)})
		}
	})
	if len(got) != maxEvents || !strings.HasSuffix(got[0], fmt.Sprint(maxEvents)) {
		t.Errorf("%d kept, from %s; want the newest %d", len(got), got[0], maxEvents)
	}
}
