package drift

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// A cluster whose store is put back to an old backup under a running agent, as on a device that is restored, answers
// watches and reads with resource versions that were there before. What the backup brought back is found and repaired,
// and watches hear again.
func TestRestoredBackup(t *testing.T) {
	ctx := t.Context()
	plane, err := controlplane.Start(ctx, controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	restored, err := plane.Cluster(ctx, "restored")
	if err != nil {
		t.Fatal(err)
	}
	applier, err := apply.New(restored.Config(), apply.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bundle := apply.Bundle{Name: "shop", Namespace: "shop", Objects: []*unstructured.Unstructured{parse(t, web), parse(t, settings)}}
	deploy := func(color string) {
		t.Helper()
		if err := unstructured.SetNestedField(bundle.Objects[1].Object, color, "data", "color"); err != nil {
			t.Fatal(err)
		}
		result, err := applier.Apply(ctx, bundle)
		if err != nil {
			t.Fatal(err)
		}
		bundle.Previous = result.Inventory
	}
	var mu sync.Mutex
	found := map[Kind]int{}
	health := 0
	watcher, err := New(applier, func(event Event) {
		mu.Lock()
		defer mu.Unlock()
		if event.Health && event.Ref.Kind == "Deployment" {
			health++
		}
		for _, object := range bundle.Objects {
			if !event.Drifted || object.GetKind() != event.Ref.Kind {
				continue
			}
			verdict, err := Check(ctx, applier, bundle, object)
			if err == nil && verdict.Drifted() {
				found[verdict.Kind]++
				err = applier.Repair(ctx, bundle, object).Err
			}
			if err != nil {
				t.Logf("%s: %v", event.Ref, err) // the API server was away
			}
		}
	}, Options{Sweep: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}

	ready := func() {
		t.Helper()
		planetest.Within(t, time.Minute, "all is ready", func() bool {
			health, err := applier.Health(ctx, bundle, bundle.Previous)
			return err == nil && health.Ready == health.Total
		})
	}
	deploy("green")
	ready()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := plane.Backup(ctx, backup); err != nil {
		t.Fatal(err)
	}
	objects := planetest.Admin(t, restored)
	color := func() string {
		object, err := objects.Resource(configMaps).Namespace("shop").Get(ctx, "settings", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		color, _, _ := unstructured.NestedString(object.Object, "data", "color")
		return color
	}
	planetest.Within(t, time.Minute, "the API server finds its store again", func() bool { return color() == "green" })
	deploy("blue")
	for i := range 300 { // so that the restored cluster will take long to get where this one is
		change(t, objects.Resource(configMaps), "settings", fmt.Sprintf(`{"data":{"count":"%d"}}`, i))
	}
	watching, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { watcher.Run(watching) })
	t.Cleanup(func() { stop(); running.Wait() })
	watcher.Follow(map[string]Followed{"shop": {Inventory: bundle.Previous}})
	ready()

	restored.StopAPIServer()
	if err := plane.Restore(ctx, backup); err != nil {
		t.Fatal(err)
	}
	if err := restored.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	planetest.Within(t, time.Minute, "it is as it was last applied", func() bool { return color() == "blue" })
	mu.Lock()
	if found[Modified] != 1 || len(found) != 1 {
		t.Errorf("found %v, want one that is modified", found)
	}
	before := health
	mu.Unlock()
	change(t, objects.Resource(deployments), "web", `{"status":{"availableReplicas":0}}`, "status")
	planetest.Within(t, time.Minute, "the watch hears again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return health > before
	})
}

// change is what somebody does to an object in namespace shop.
func change(t *testing.T, objects dynamic.NamespaceableResourceInterface, name, body string, subresource ...string) {
	t.Helper()
	_, err := objects.Namespace("shop").Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, subresource...)
	if err != nil {
		t.Fatal(err)
	}
}
