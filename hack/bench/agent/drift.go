package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/hack/bench/figures"
)

// object names one that the bench looks at.
type object struct{ kind, namespace, name string }

func (o object) gvk() schema.GroupVersionKind {
	if o.kind == "Deployment" {
		return schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: o.kind}
	}
	return schema.GroupVersionKind{Version: "v1", Kind: o.kind}
}

func (o object) empty() *unstructured.Unstructured {
	one := &unstructured.Unstructured{}
	one.SetGroupVersionKind(o.gvk())
	one.SetNamespace(o.namespace)
	one.SetName(o.name)
	return one
}

// until calls disturb once it watches, and returns when the object is there and as it should be.
func (f *fiftyRun) until(ctx context.Context, one object, good func(map[string]any) bool, disturb func() error) error {
	ctx, cancel := context.WithTimeout(ctx, harness.Patience)
	defer cancel()
	watching, err := client.NewWithWatch(f.edge.Config(), client.Options{Scheme: f.edge.Client.Scheme()})
	if err != nil {
		return err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(one.gvk().GroupVersion().WithKind(one.kind + "List"))
	events, err := watching.Watch(ctx, list, client.InNamespace(one.namespace), client.MatchingFields{"metadata.name": one.name})
	if err != nil {
		return err
	}
	defer events.Stop()
	bad := disturb == nil
	if disturb != nil {
		if err := disturb(); err != nil {
			return err
		}
	}
	for event := range events.ResultChan() {
		live, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("watch %s: %v", one.name, event.Object)
		}
		fine := event.Type != watch.Deleted && live.GetDeletionTimestamp() == nil && good(live.Object)
		bad = bad || !fine
		if bad && fine {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("%s %s/%s is not as it should be", one.kind, one.namespace, one.name), ctx.Err())
}

func greeting(object map[string]any) string {
	text, _, _ := unstructured.NestedString(object, "data", "greeting")
	return text
}

func oneReplica(object map[string]any) bool {
	replicas, _, _ := unstructured.NestedInt64(object, "spec", "replicas")
	return replicas == 1
}

// disturbance is something that people do to a cluster, and how it is when it has been put back.
type disturbance struct {
	object object
	good   func(map[string]any) bool
	do     func(context.Context) error
}

// disturbances changes a ConfigMap, scales a Deployment or deletes a Service, in turn.
func (f *fiftyRun) disturbances(i int) disturbance {
	name := fmt.Sprintf("fifty-%02d", i%fiftyBundles)
	merge := func(one object, patch string) func(context.Context) error {
		return func(ctx context.Context) error {
			return f.edge.Client.Patch(ctx, one.empty(), client.RawPatch("application/merge-patch+json", []byte(patch)))
		}
	}
	switch i % 3 {
	case 0:
		one := object{"ConfigMap", name, name}
		return disturbance{one, func(data map[string]any) bool { return greeting(data) == "hello" }, merge(one, `{"data":{"greeting":"bye"}}`)}
	case 1:
		one := object{"Deployment", name, name}
		return disturbance{one, oneReplica, merge(one, `{"spec":{"replicas":3}}`)}
	default:
		one := object{"Service", name, name}
		return disturbance{one, func(map[string]any) bool { return true }, func(ctx context.Context) error {
			return f.edge.Client.Delete(ctx, one.empty())
		}}
	}
}

// drift measures from the answer to a disturbance to the event that shows its repair.
func (f *fiftyRun) drift(ctx context.Context) error {
	var took []float64
	for i := range repairs {
		var disturbed time.Time
		d := f.disturbances(i)
		err := f.until(ctx, d.object, d.good, func() error {
			err := d.do(ctx)
			disturbed = time.Now()
			return err
		})
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(disturbed).Microseconds())/1000)
	}
	figures.Report("drift_repair_p50_ms", figures.Median(took), "ms")
	figures.Report("drift_repair_p95_ms", figures.Percentile(took, 95), "ms")
	return nil
}

// offline measures from the start of an agent that reaches no registry to the first repair: the agent was killed, the
// link cut, and something was changed meanwhile.
func (f *fiftyRun) offline(ctx context.Context) error {
	f.agent.Kill()
	if err := errors.Join(f.meter.close(), f.registry.Stop()); err != nil {
		return err
	}
	d := f.disturbances(repairs)
	var started time.Time
	err := f.until(ctx, d.object, d.good, func() error {
		if err := d.do(ctx); err != nil {
			return err
		}
		started = time.Now()
		return f.agent.Start()
	})
	if err != nil {
		return err
	}
	figures.Report("offline_start_to_repair_seconds", time.Since(started).Seconds(), "s")
	return nil
}
