package apply

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// What other tools made is taken over as it is, running; the fields that only they had set go, and those of people stay.
func TestTakeOver(t *testing.T) {
	for name, tc := range map[string]struct {
		manager string
		apply   bool
	}{
		"kubectl apply":               {"kubectl-client-side-apply", false},
		"kubectl apply --server-side": {"kubectl", true},
		"kubectl create":              {"kubectl-create", false},
		"Helm 3":                      {"helm", false},
		"Helm 4":                      {"helm", true},
		"Rancher Fleet":               {"fleetagent", false},
		"Flux":                        {"kustomize-controller", true},
		"Flux, of a HelmRelease":      {"helm-controller", false},
		"Argo CD":                     {"argocd-controller", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			applier, _ := newApplier(t, Options{})
			ns := planetest.Fresh("takeover")
			mustApply(t, applier, Bundle{Name: ns + "-ns", Objects: planetest.Parse(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+ns+"}")})
			theirs := planetest.Parse(t, strings.Replace(webOnly, "replicas: 1", "replicas: 1\n  minReadySeconds: 7", 1))[0]
			theirs.SetAnnotations(map[string]string{"theirs.example.com/stale": "yes"})
			admin := planetest.Admin(t, cluster).Resource(deployments).Namespace(ns)
			var err error
			if tc.apply {
				_, err = admin.Apply(t.Context(), "web", theirs, metav1.ApplyOptions{FieldManager: tc.manager})
			} else {
				_, err = admin.Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: tc.manager})
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Patch(t.Context(), "web", types.MergePatchType,
				[]byte(`{"metadata":{"labels":{"person":"added"}}}`), metav1.PatchOptions{FieldManager: "person"}); err != nil {
				t.Fatal(err)
			}
			before := uidOf(t, ns, "web")
			mustApply(t, applier, Bundle{Name: ns, Namespace: ns, Objects: planetest.Parse(t, webOnly)})
			live, err := admin.Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if live.GetUID() != before {
				t.Error("it was made anew")
			}
			if stale, _, _ := unstructured.NestedInt64(live.Object, "spec", "minReadySeconds"); stale != 0 {
				t.Errorf("their minReadySeconds %d stayed", stale)
			}
			if live.GetAnnotations()["theirs.example.com/stale"] != "" || live.GetLabels()["person"] != "added" {
				t.Errorf("annotations %v, labels %v", live.GetAnnotations(), live.GetLabels())
			}
			for _, entry := range live.GetManagedFields() {
				if entry.Manager == tc.manager && entry.Subresource == "" {
					t.Errorf("%s still owns %s", entry.Manager, entry.FieldsV1.GetRawBytes())
				}
			}
		})
	}
}

const webOnly = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}`

// An object that a new version of the bundle names by another API version is the same object.
func TestRenamedAPIVersion(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	scaler := func(version, target string) []*unstructured.Unstructured {
		return planetest.Parse(t, fmt.Sprintf(`apiVersion: autoscaling/%s
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s}, maxReplicas: 3}`, version, target))
	}
	resource := planetest.Admin(t, cluster).Resource(schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}).Namespace("renamed")
	bundle := Bundle{Name: "renamed", Namespace: "renamed", Objects: scaler("v1", "one")}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	before, err := resource.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bundle.Objects = scaler("v2", "two")
	result := mustApply(t, applier, bundle)
	if result.Count(Deleted) != 0 || result.Count(Configured) != 1 || len(result.Inventory) != 2 {
		t.Errorf("actions %v, inventory %v", actions(result), result.Inventory)
	}
	after, err := resource.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || after.GetUID() != before.GetUID() {
		t.Errorf("it is another object now: %v", err)
	}
	bundle.Previous = result.Inventory
	if removed, err := applier.Remove(t.Context(), bundle); err != nil || len(removed.Inventory) != 0 {
		t.Errorf("remove: %v, %v", removed.Inventory, err)
	}
}

// prune.keepNamespace keeps what the bundle's namespace holds of others with it.
func TestKeepNamespace(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "kept", Namespace: "kept", Objects: planetest.Parse(t, web)[1:2]}
	bundle.Options.Prune.KeepNamespace = true
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	result, err := applier.Remove(t.Context(), bundle)
	if err != nil || len(result.Inventory) != 0 || result.Count(Deleted) != 1 || result.Count(Skipped) != 1 {
		t.Errorf("remove: %v, %v, %v", actions(result), result.Inventory, err)
	}
	namespace, err := planetest.Admin(t, cluster).Resource(nss).Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || namespace.GetDeletionTimestamp() != nil {
		t.Errorf("the namespace goes: %v", err)
	}
}

// network counts requests in flight, and answers some with 429.
type network struct {
	next     http.RoundTripper
	busy     atomic.Int64 // how many requests are still to be turned away
	mu       sync.Mutex
	now, max int
	waits    []time.Duration // between being turned away and coming again
	refused  map[string]time.Time
}

func (n *network) RoundTrip(request *http.Request) (*http.Response, error) {
	if n.busy.Add(-1) >= 0 {
		n.mu.Lock()
		n.refused[request.URL.Path] = time.Now()
		n.mu.Unlock()
		return &http.Response{
			StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}, "Content-Type": {"text/plain"}},
			Body: io.NopCloser(bytes.NewReader(nil)), Request: request,
		}, nil
	}
	n.mu.Lock()
	if at, ok := n.refused[request.URL.Path]; ok {
		n.waits = append(n.waits, time.Since(at))
		delete(n.refused, request.URL.Path)
	}
	n.now++
	n.max = max(n.max, n.now)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.now--
		n.mu.Unlock()
	}()
	return n.next.RoundTrip(request)
}

func newNetwork(t *testing.T, options Options) (*Applier, *network) {
	t.Helper()
	config, between := cluster.Config(), &network{refused: map[string]time.Time{}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { between.next = next; return between })
	applier, err := New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	return applier, between
}

// A thousand objects take a thousand requests, a bounded number at a time, and little memory beside the objects.
func TestThousandObjects(t *testing.T) {
	const parallel = 12
	applier, between := newNetwork(t, Options{Parallel: parallel})
	bundle := Bundle{Name: "thousand", Namespace: "thousand"}
	for i := range 1000 {
		bundle.Objects = append(bundle.Objects, planetest.Parse(t, fmt.Sprintf(
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-%d}\ndata: {text: %q}", i, strings.Repeat("x", 2000)))...)
	}
	heap := func() int64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := heap()
	result := mustApply(t, applier, bundle)
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	if result.Count(Created) != 1001 {
		t.Errorf("%d objects were created", result.Count(Created))
	}
	if between.max > parallel {
		t.Errorf("%d requests in flight, at most %d are allowed", between.max, parallel)
	}
	bundle.Previous = result.Inventory
	if again := mustApply(t, applier, bundle); again.Count(Unchanged) != 1000 {
		t.Errorf("again: %d unchanged", again.Count(Unchanged))
	}
	bundle.Objects = bundle.Objects[:10]
	if pruned := mustApply(t, applier, bundle); pruned.Count(Deleted) != 990 || between.max > parallel {
		t.Errorf("%d were pruned, with %d requests in flight", pruned.Count(Deleted), between.max)
	}
}

// A server that is too busy says when to come again (API Priority and Fairness), and is obeyed.
func TestBusyServer(t *testing.T) {
	applier, between := newNetwork(t, Options{})
	bundle := Bundle{Name: "busy", Namespace: "busy", Objects: planetest.Parse(t, web)}
	mustApply(t, applier, Bundle{Name: "first", Namespace: "busy", Objects: planetest.Parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}")})
	between.busy.Store(3)
	if result := mustApply(t, applier, bundle); result.Count(Created) != 4 {
		t.Errorf("actions %v", actions(result))
	}
	between.mu.Lock()
	defer between.mu.Unlock()
	if len(between.waits) == 0 {
		t.Error("nobody was turned away")
	}
	for _, wait := range between.waits {
		if wait < time.Second {
			t.Errorf("came again after %s, a second was asked for", wait)
		}
	}
	if diff := cmp.Diff(map[string]time.Time{}, between.refused); diff != "" {
		t.Errorf("never came again: %s", diff)
	}
}
