package drift

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// tenObjects of a usual bundle.
func tenObjects(b *testing.B) []*unstructured.Unstructured {
	b.Helper()
	documents := []string{
		web, settings,
		"apiVersion: v1\nkind: Secret\nmetadata: {name: password}\nstringData: {word: swordfish}",
		"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}",
		"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}",
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: web}\nrules: []",
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: web}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}",
		"apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 0, selector: {matchLabels: {app: web}}}",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {matchLabels: {app: web}}}",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {a: b}",
	}
	var out []*unstructured.Unstructured
	for _, document := range documents {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			b.Fatal(err)
		}
		out = append(out, object)
	}
	return out
}

// BenchmarkFiftyBundles brings 50 bundles of 10 objects each and waits until all are ready.
func BenchmarkFiftyBundles(b *testing.B) {
	for round := range b.N {
		config := cluster.Config()
		requests := planetest.CountRequests(config)
		applier, err := apply.New(config, apply.Options{})
		if err != nil {
			b.Fatal(err)
		}
		changed := make(chan struct{}, 1)
		watcher, err := New(applier, func(Event) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { watcher.Run(ctx) })

		started := time.Now()
		bundles := make([]apply.Bundle, 50)
		var mu sync.Mutex
		followed := map[string]Followed{}
		var group errgroup.Group
		group.SetLimit(8)
		for i := range bundles {
			group.Go(func() error {
				name := fmt.Sprintf("bench-%d-%d-%d", time.Now().Unix(), round, i)
				bundle := apply.Bundle{Name: name, Namespace: name, Objects: tenObjects(b)}
				bundle.Record = func(inventory apply.Inventory) error {
					mu.Lock()
					defer mu.Unlock()
					followed[name] = Followed{Inventory: inventory}
					watcher.Follow(followed)
					return nil
				}
				result, err := applier.Apply(ctx, bundle)
				bundle.Previous = result.Inventory
				bundles[i] = bundle
				return err
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(started).Seconds(), "applied-s")
		ready := func() bool {
			for _, bundle := range bundles {
				health, err := applier.Health(ctx, bundle, bundle.Previous)
				if err != nil {
					b.Fatal(err)
				}
				if health.Ready < health.Total {
					return false
				}
			}
			return true
		}
		deadline := time.After(time.Minute)
		for !ready() {
			select {
			case <-changed:
			case <-deadline:
				for _, bundle := range bundles {
					if health, _ := applier.Health(ctx, bundle, bundle.Previous); health.Ready < health.Total {
						b.Fatalf("not ready: %s: %+v", bundle.Name, health)
					}
				}
			}
		}
		b.ReportMetric(time.Since(started).Seconds(), "ready-s")
		b.ReportMetric(float64(requests.Load()), "requests")
		stop()
		running.Wait()
	}
}
