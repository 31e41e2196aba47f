package agent

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func fakeCluster(t *testing.T, calls interceptor.Funcs) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.BundleDeployment{}).
		WithInterceptorFuncs(calls).Build()
}

func hold(cluster client.WithWatch, identity, run string) *Hold {
	return &Hold{Client: cluster, Identity: identity, Run: run, Patience: 500 * time.Millisecond}
}

func TestHoldRemembersTheTarget(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	first := hold(cluster, "one", "run-1")
	known, err := first.Acquire(t.Context())
	if err != nil || known != (Known{}) {
		t.Fatalf("first Acquire: %+v, %v", known, err)
	}
	want := Known{Generation: 7, Digest: "sha256:aa", Latest: noon}
	if err := first.Remember(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := hold(cluster, "two", "run-2").Acquire(t.Context())
	if err != nil || got != want {
		t.Errorf("after a release: %+v, %v; want %+v", got, err, want)
	}
	if err := first.Remember(t.Context(), Known{Generation: 8}); ReasonOf(err, "") != ReasonAnotherAgent {
		t.Errorf("the one before remembers: %v", err)
	}
}

// The holder is alive: it answers, and the newcomer is refused.
func TestSecondAgentIsRefused(t *testing.T) {
	t.Parallel()
	watching := make(chan struct{}) // a real server tells a new watch what is there, the fake doesn't
	cluster := fakeCluster(t, interceptor.Funcs{
		Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			defer close(watching)
			return c.Watch(ctx, list, opts...)
		},
	})
	first := hold(cluster, "one", "run-1")
	if _, err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- first.Keep(ctx) }()
	<-watching
	second := hold(cluster, "two", "run-2")
	second.Patience = 10 * time.Second
	if _, err := second.Acquire(t.Context()); ReasonOf(err, "") != ReasonAnotherAgent {
		t.Errorf("second Acquire: %v", err)
	}
	cancel()
	if err := <-kept; err != nil {
		t.Errorf("the holder: %v", err)
	}
}

// The holder is dead: it doesn't answer, and the newcomer takes over. One that comes back finds out.
func TestDeadHolderIsReplaced(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	first := hold(cluster, "one", "run-1")
	if _, err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Remember(t.Context(), Known{Generation: 3, Digest: "sha256:aa"}); err != nil {
		t.Fatal(err)
	}
	known, err := hold(cluster, "two", "run-2").Acquire(t.Context())
	if err != nil || known.Generation != 3 {
		t.Fatalf("second Acquire: %+v, %v", known, err)
	}
	if err := first.Remember(t.Context(), Known{Generation: 4}); ReasonOf(err, "") != ReasonAnotherAgent {
		t.Errorf("the dead one remembers: %v", err)
	}
}

func TestHolderNoticesTakeover(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	first := hold(cluster, "one", "run-1")
	if _, err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := make(chan error, 1)
	go func() { kept <- first.Keep(t.Context()) }()
	// The same state folder, copied: it takes over without asking.
	second := hold(cluster, "one", "run-2")
	for len(kept) == 0 { // the fake tells no watch of what was before it
		if _, err := second.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-kept; ReasonOf(err, "") != ReasonAnotherAgent {
		t.Errorf("Keep: %v", err)
	}
}

// The same state folder starts again at once, without waiting for anybody.
func TestRestartDoesNotChallenge(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	if _, err := hold(cluster, "one", "run-1").Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := hold(cluster, "one", "run-2")
	again.Patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := again.Acquire(ctx); err != nil {
		t.Errorf("Acquire: %v", err)
	}
}

func TestObjectsWriteOnlyChanges(t *testing.T) {
	t.Parallel()
	var calls []string
	var mu sync.Mutex // objects are written in parallel
	note := func(verb string, object client.Object) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, verb+" "+object.GetName())
	}
	cluster := fakeCluster(t, interceptor.Funcs{
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			calls = append(calls, "install")
			return nil
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			calls = append(calls, "list")
			return c.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.CreateOption) error {
			note("create", object)
			return c.Create(ctx, object, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.UpdateOption) error {
			note("update", object)
			return c.Update(ctx, object, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.DeleteOption) error {
			note("delete", object)
			return c.Delete(ctx, object, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, name string, object client.Object, opts ...client.SubResourceUpdateOption) error {
			note(name, object)
			return c.SubResource(name).Update(ctx, object, opts...)
		},
	})
	writer := &Objects{Client: cluster}
	write := func(want []string, units ...*unit) {
		t.Helper()
		calls = nil
		var deployments []v1alpha1.BundleDeployment
		for _, one := range units {
			deployments = append(deployments, deploymentOf(one))
		}
		if err := writer.Write(t.Context(), deployments); err != nil {
			t.Fatal(err)
		}
		slices.Sort(calls)
		slices.Sort(want)
		if diff := cmp.Diff(want, calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	}
	units := unitsOf("a ready", "b updating")
	a, b := units["a"], units["b"]
	a.reason = ReasonReady
	write([]string{"install", "list", "create a", "status a", "create b", "status b"}, a, b)
	write(nil, a, b)
	b.stand(standing{state: v1alpha1.StateReady, reason: ReasonReady}, noon)
	write([]string{"status b"}, a, b)
	b.generation = 2
	write([]string{"update b"}, a, b) // the fake keeps metadata.generation
	write([]string{"delete a"}, b)

	var got v1alpha1.BundleDeployment
	if err := cluster.Get(t.Context(), client.ObjectKey{Name: "b"}, &got); err != nil {
		t.Fatal(err)
	}
	conditions := map[string]string{}
	for _, condition := range got.Status.Conditions {
		conditions[condition.Type] = string(condition.Status) + " " + condition.Reason
	}
	want := map[string]string{"Ready": "True Ready", "Reconciling": "False Ready", "Stalled": "False Ready", "Drifted": "False Ready"}
	if diff := cmp.Diff(want, conditions); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	// A new process finds what is there, and has nothing to write.
	writer = &Objects{Client: cluster}
	write([]string{"install", "list"}, b)
}

func TestAwaitNoticesThatTheHolderLeft(t *testing.T) {
	t.Parallel()
	cluster := fakeCluster(t, interceptor.Funcs{})
	first, second := hold(cluster, "one", "run-1"), hold(cluster, "two", "run-2")
	if _, err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	returned := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		second.Await(t.Context(), time.Minute)
		returned <- time.Since(began)
	}()
	// The watch may open after the release: the holder leaves until it is noticed.
	for {
		if err := first.Release(t.Context()); err != nil && ReasonOf(err, "") != ReasonAnotherAgent {
			t.Fatal(err)
		}
		select {
		case took := <-returned:
			if took > 30*time.Second {
				t.Errorf("noticed after %s", took)
			}
			return
		case <-time.After(50 * time.Millisecond):
			if _, err := first.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
