package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// A cluster that is put back from a backup while the agent runs learns again what it knew, without a restart: the disk may
// be lost next.
func TestLeaseLearnsAgain(t *testing.T) {
	t.Parallel()
	want := Known{Generation: 7, Digest: "sha256:aa", Latest: noon, Trust: 3}
	change := func(annotations map[string]string) func(*testing.T, client.Client, *coordinationv1.Lease) {
		return func(t *testing.T, cluster client.Client, lease *coordinationv1.Lease) {
			for key, value := range annotations {
				metav1.SetMetaDataAnnotation(&lease.ObjectMeta, key, value)
			}
			if err := cluster.Update(t.Context(), lease); err != nil {
				t.Error(err)
			}
		}
	}
	tests := []struct {
		name    string
		restore func(*testing.T, client.Client, *coordinationv1.Lease)
	}{
		{"an older generation", change(map[string]string{annotationGeneration: "5", annotationDigest: "sha256:bb"})},
		{"an older trust root", change(map[string]string{annotationTrust: "2"})},
		{"an older time", change(map[string]string{annotationLatest: stamp(noon.Add(-time.Hour))})},
		{"nothing", func(t *testing.T, cluster client.Client, lease *coordinationv1.Lease) {
			lease.Annotations = map[string]string{annotationRun: lease.Annotations[annotationRun]}
			if err := cluster.Update(t.Context(), lease); err != nil {
				t.Error(err)
			}
		}},
		{"no Lease", func(t *testing.T, cluster client.Client, lease *coordinationv1.Lease) {
			if err := cluster.Delete(t.Context(), lease); err != nil {
				t.Error(err)
			}
		}},
		{"no namespace", func(t *testing.T, cluster client.Client, lease *coordinationv1.Lease) {
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: lease.Namespace}}
			if err := cluster.Delete(t.Context(), namespace); err != nil {
				t.Error(err)
			}
			if err := cluster.Delete(t.Context(), lease); err != nil {
				t.Error(err)
			}
		}},
	}
	for _, test := range tests {
		for _, seen := range []bool{true, false} { // while the watch is open, or not
			name := test.name
			if !seen {
				name += ", while nobody watched"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var writes atomic.Int64
					blind := !seen
					cluster := fakeCluster(t, interceptor.Funcs{
						Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
							if blind {
								blind = false
								closed := watch.NewFake()
								closed.Stop()
								return closed, nil
							}
							return watchAll(ctx, t, c, list, opts...)
						},
						Update: func(ctx context.Context, c client.WithWatch, object client.Object, opts ...client.UpdateOption) error {
							writes.Add(1)
							return c.Update(ctx, object, opts...)
						},
					})
					one := hold(cluster, "one", "run-1")
					if _, err := one.Acquire(t.Context()); err != nil {
						t.Fatal(err)
					}
					if err := one.Remember(t.Context(), want); err != nil {
						t.Fatal(err)
					}
					if !seen {
						test.restore(t, cluster, leaseOf(t, cluster))
					}
					ctx, cancel := context.WithCancel(t.Context())
					kept := make(chan error, 1)
					go func() { kept <- one.Keep(ctx) }()
					synctest.Wait()
					if seen {
						test.restore(t, cluster, leaseOf(t, cluster))
					}
					time.Sleep(2 * watchPause)
					got, err := knownOf(leaseOf(t, cluster))
					if err != nil || !got.equal(want) {
						t.Errorf("the cluster remembers %+v, %v; want %+v", got, err, want)
					}
					settled := writes.Load()
					time.Sleep(time.Hour)
					if more := writes.Load() - settled; more != 0 {
						t.Errorf("%d writes while nothing happened", more)
					}
					cancel()
					if err := <-kept; err != nil {
						t.Errorf("Keep: %v", err)
					}
				})
			})
		}
	}
}

// watchAll tells what is there first, as a real server does and the fake doesn't.
func watchAll(ctx context.Context, t *testing.T, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	t.Helper()
	events, err := c.Watch(ctx, list, opts...)
	if err != nil {
		return nil, err
	}
	var there coordinationv1.LeaseList
	if err := c.List(ctx, &there); err != nil {
		return nil, err
	}
	all := watch.NewFakeWithOptions(watch.FakeOptions{ChannelSize: len(there.Items)})
	for i := range there.Items {
		all.Add(&there.Items[i])
	}
	go func() {
		defer events.Stop()
		for {
			select {
			case event := <-events.ResultChan():
				all.Action(event.Type, event.Object)
			case <-ctx.Done():
				return
			}
		}
	}()
	return all, nil
}

func leaseOf(t *testing.T, cluster client.Client) *coordinationv1.Lease {
	t.Helper()
	lease := &coordinationv1.Lease{}
	if err := cluster.Get(t.Context(), client.ObjectKey{Namespace: DefaultNamespace, Name: LeaseName}, lease); err != nil {
		t.Fatal(err)
	}
	return lease
}
