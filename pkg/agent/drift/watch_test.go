package drift

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
)

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1", resources: {requests: {cpu: 0.010}}}]}`

const settings = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}`

// keeper repairs what drifts, as the agent does.
type keeper struct {
	applier  *apply.Applier
	bundle   apply.Bundle
	requests *planetest.Counter

	mu       sync.Mutex
	verdicts []Verdict
	acts     []Act
	contest  Contest
}

// keep applies the objects and keeps them until the test ends.
func keep(t *testing.T, namespace string, options v1alpha1.DeployOptions, documents ...string) *keeper {
	t.Helper()
	return keepBy(t, cluster.Config(), Options{}, namespace, options, documents...)
}

// keepBy is keep by way of another client configuration, with a watcher's options.
func keepBy(t *testing.T, config *rest.Config, watching Options, namespace string, options v1alpha1.DeployOptions, documents ...string) *keeper {
	t.Helper()
	k := &keeper{
		requests: planetest.CountRequests(config), bundle: apply.Bundle{Name: namespace, Namespace: namespace, Options: options},
	}
	var err error
	if k.applier, err = apply.New(config, apply.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, document := range documents {
		k.bundle.Objects = append(k.bundle.Objects, parse(t, document))
	}
	result, err := k.applier.Apply(t.Context(), k.bundle)
	if err != nil {
		t.Fatal(err)
	}
	k.bundle.Previous = result.Inventory
	watcher, err := New(k.applier, func(event Event) { k.handle(t, event) }, watching)
	if err != nil {
		t.Fatal(err)
	}
	watcher.Follow(map[string]Followed{namespace: {Inventory: result.Inventory}})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { watcher.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	planetest.Within(t, 20*time.Second, "ready, at no cost", func() bool {
		before := k.requests.Load()
		health, err := k.applier.Health(t.Context(), k.bundle, result.Inventory)
		return err == nil && health.Ready == health.Total && k.requests.Load() == before
	})
	return k
}

func (k *keeper) handle(t *testing.T, event Event) {
	if !event.Drifted || event.Bundle != k.bundle.Name {
		return
	}
	for _, object := range k.bundle.Objects {
		if object.GetKind() != event.Ref.Kind {
			continue
		}
		verdict, err := Check(t.Context(), k.applier, k.bundle, object)
		if err != nil {
			if t.Context().Err() == nil {
				t.Errorf("check: %v", err)
			}
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		act, _ := Decide(verdict, k.bundle.Options.Drift.Mode, &k.contest, time.Now())
		k.verdicts, k.acts = append(k.verdicts, verdict), append(k.acts, act)
		if act != Repair {
			return
		}
		if change := k.applier.Repair(t.Context(), k.bundle, object); change.Err != nil {
			t.Errorf("repair: %v", change.Err)
		}
		k.contest.Repaired(time.Now())
	}
}

func (k *keeper) seen() ([]Verdict, []Act) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Verdict(nil), k.verdicts...), append([]Act(nil), k.acts...)
}

func get(t *testing.T, gvr schema.GroupVersionResource, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	object, err := planetest.Admin(t, cluster).Resource(gvr).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return object
}

func patch(t *testing.T, gvr schema.GroupVersionResource, namespace, name, body string) {
	t.Helper()
	_, err := planetest.Admin(t, cluster).Resource(gvr).Namespace(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(body),
		metav1.PatchOptions{FieldManager: "intruder"})
	if err != nil {
		t.Fatal(err)
	}
}

func replicas(object *unstructured.Unstructured) int64 {
	if object == nil {
		return -1
	}
	n, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
	return n
}

func TestDeletedComesBack(t *testing.T) {
	ns := planetest.Fresh("deleted")
	k := keep(t, ns, v1alpha1.DeployOptions{}, web, settings)
	if err := planetest.Admin(t, cluster).Resource(deployments).Namespace(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := planetest.Within(t, 20*time.Second, "the Deployment is back", func() bool { return get(t, deployments, ns, "web") != nil })
	t.Logf("the Deployment was back after %s", took)
	if err := planetest.Admin(t, cluster).Resource(configMaps).Namespace(ns).Delete(t.Context(), "settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took = planetest.Within(t, 20*time.Second, "the ConfigMap is back", func() bool { return get(t, configMaps, ns, "settings") != nil })
	t.Logf("the ConfigMap was back after %s", took)
	verdicts, _ := k.seen()
	for _, verdict := range verdicts {
		if verdict.Kind != Missing && verdict.Kind != None {
			t.Errorf("verdict %s", verdict)
		}
	}
}

// A change to our field is undone, in one repair and without an echo; a field beside ours stays, and costs nothing.
func TestModifiedIsReverted(t *testing.T) {
	ns := planetest.Fresh("modified")
	k := keep(t, ns, v1alpha1.DeployOptions{}, web, settings)
	before := k.requests.Load()
	patch(t, configMaps, ns, "settings", `{"data":{"added":"by another"},"metadata":{"labels":{"added":"too"}}}`)
	patch(t, deployments, ns, "web", `{"spec":{"replicas":3}}`)
	took := planetest.Within(t, 20*time.Second, "one replica again", func() bool { return replicas(get(t, deployments, ns, "web")) == 1 })
	t.Logf("reverted after %s", took)
	planetest.Within(t, 10*time.Second, "quiet", func() bool {
		health, err := k.applier.Health(t.Context(), k.bundle, k.bundle.Previous)
		return err == nil && health.Ready == health.Total
	})
	verdicts, acts := k.seen()
	if diff := cmp.Diff([]Verdict{{Kind: Modified, Paths: []string{"/spec/replicas"}, Manager: "intruder"}}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Act{Repair}, acts); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
	if got := k.requests.Load() - before; got != 4 { // get, dry run, is there an autoscaler, apply
		t.Errorf("took %d requests, want 4", got)
	}
	data, _, _ := unstructured.NestedStringMap(get(t, configMaps, ns, "settings").Object, "data")
	if diff := cmp.Diff(map[string]string{"color": "blue", "added": "by another"}, data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
}

func TestIgnoredAndWarned(t *testing.T) {
	ns := planetest.Fresh("ignored")
	options := v1alpha1.DeployOptions{Drift: v1alpha1.Drift{Ignore: []v1alpha1.DriftIgnore{
		{Kind: "Deployment", JSONPointers: []string{"/spec/replicas"}},
	}}}
	k := keep(t, ns, options, web)
	patch(t, deployments, ns, "web", `{"spec":{"replicas":3}}`)
	planetest.Within(t, 20*time.Second, "a verdict", func() bool { verdicts, _ := k.seen(); return len(verdicts) > 0 })
	verdicts, acts := k.seen()
	if verdicts[0].Kind != Ignored || acts[0] != Leave || replicas(get(t, deployments, ns, "web")) != 3 {
		t.Errorf("verdict %s, act %s", verdicts[0], acts[0])
	}
	// What is not ignored is repaired, and what is stays as it is.
	patch(t, deployments, ns, "web", `{"spec":{"minReadySeconds":1,"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}`)
	planetest.Within(t, 20*time.Second, "the image is back", func() bool {
		containers, _, _ := unstructured.NestedSlice(get(t, deployments, ns, "web").Object, "spec", "template", "spec", "containers")
		return containers[0].(map[string]any)["image"] == "web:1"
	})
	if got := replicas(get(t, deployments, ns, "web")); got != 3 {
		t.Errorf("the repair set replicas to %d", got)
	}

	warned := planetest.Fresh("warned")
	w := keep(t, warned, v1alpha1.DeployOptions{Drift: v1alpha1.Drift{Mode: v1alpha1.DriftWarn}}, web)
	patch(t, deployments, warned, "web", `{"spec":{"replicas":3}}`)
	planetest.Within(t, 20*time.Second, "a verdict", func() bool { verdicts, _ := w.seen(); return len(verdicts) > 0 })
	if _, acts := w.seen(); acts[0] != Report || replicas(get(t, deployments, warned, "web")) != 3 {
		t.Errorf("acts %v", acts)
	}
}

// Somebody who undoes each repair is conceded to after five.
func TestContested(t *testing.T) {
	ns := planetest.Fresh("contested")
	k := keep(t, ns, v1alpha1.DeployOptions{}, settings)
	conceded := func() bool { _, acts := k.seen(); return len(acts) > 0 && acts[len(acts)-1] == Concede }
	planetest.Within(t, 20*time.Second, "conceded", func() bool {
		data, _, _ := unstructured.NestedString(get(t, configMaps, ns, "settings").Object, "data", "color")
		if data == "blue" {
			patch(t, configMaps, ns, "settings", `{"data":{"color":"red"}}`)
		}
		return conceded()
	})
	verdicts, acts := k.seen()
	if len(acts) != Repairs+1 {
		t.Errorf("acts %v", acts)
	}
	if last := verdicts[len(verdicts)-1]; last.Manager != "intruder" {
		t.Errorf("verdict %s", last)
	}
}

// While nothing happens nothing is asked.
func TestIdleCostsNothing(t *testing.T) {
	ns := planetest.Fresh("idle")
	k := keep(t, ns, v1alpha1.DeployOptions{}, web, settings)
	before := k.requests.Load()
	for range 100 {
		if health, err := k.applier.Health(t.Context(), k.bundle, k.bundle.Previous); err != nil || health.Ready != health.Total {
			t.Fatalf("health %+v, %v", health, err)
		}
	}
	if got := k.requests.Load() - before; got != 0 {
		t.Errorf("idle took %d requests", got)
	}
}

// A sweep finds what no watch told.
func TestSweep(t *testing.T) {
	ns := planetest.Fresh("sweep")
	k := keep(t, ns, v1alpha1.DeployOptions{Drift: v1alpha1.Drift{Mode: v1alpha1.DriftWarn}}, settings)
	fresh, err := apply.New(cluster.Config(), apply.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Apply(t.Context(), k.bundle); err != nil {
		t.Fatal(err)
	}
	mapping, err := fresh.Kinds().Mapping(t.Context(), apply.Ref{APIVersion: "v1", Kind: "ConfigMap"})
	if err != nil {
		t.Fatal(err)
	}
	survey := func() []apply.Seen {
		all, err := fresh.Survey(t.Context(), mapping, "")
		if err != nil {
			t.Fatal(err)
		}
		if all.Rewound {
			t.Error("it took a cluster that went on for one that went back")
		}
		var ours []apply.Seen
		for _, one := range all.Drifted {
			if one.Bundle == ns && one.Drifted {
				ours = append(ours, one)
			}
		}
		return ours
	}
	if seen := survey(); len(seen) != 0 {
		t.Errorf("nothing drifted, survey says %+v", seen)
	}
	patch(t, configMaps, ns, "settings", `{"data":{"color":"red"}}`)
	if seen := survey(); len(seen) != 1 {
		t.Errorf("changed: survey says %+v", seen)
	}
	if err := planetest.Admin(t, cluster).Resource(configMaps).Namespace(ns).Delete(t.Context(), "settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if seen := survey(); len(seen) != 1 {
		t.Errorf("deleted: survey says %+v", seen)
	}
}
