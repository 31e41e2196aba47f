package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// patience is how long a cluster may take to become ready.
const patience = 10 * time.Minute

// allReady waits until so many BundleDeployments are Ready, by a watch, and returns when the last one was.
func allReady(ctx context.Context, edge *harness.Cluster, count int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	watching, err := client.NewWithWatch(edge.Config(), client.Options{Scheme: edge.Client.Scheme()})
	if err != nil {
		return time.Time{}, err
	}
	ready := map[string]bool{}
	for ctx.Err() == nil {
		events, err := watching.Watch(ctx, &v1alpha1.BundleDeploymentList{})
		if err != nil { // the agent has not made the definition yet
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				break
			}
			continue
		}
		at, done := follow(events, ready, count)
		events.Stop()
		if done {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%d of %d bundles became ready: %w", len(ready), count, ctx.Err())
}

func follow(events watch.Interface, ready map[string]bool, count int) (time.Time, bool) {
	for event := range events.ResultChan() {
		bundle, ok := event.Object.(*v1alpha1.BundleDeployment)
		if !ok {
			return time.Time{}, false
		}
		if bundle.Status.State == v1alpha1.StateReady && meta.IsStatusConditionTrue(bundle.Status.Conditions, v1alpha1.ConditionReady) {
			ready[bundle.Name] = true
		} else {
			delete(ready, bundle.Name)
		}
		if len(ready) >= count {
			return time.Now(), true
		}
	}
	return time.Time{}, false
}

// sleep lets time pass: rates need it.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
