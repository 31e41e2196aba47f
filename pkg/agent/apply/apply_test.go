package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	nss         = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// One request per new object and one for the namespace; a second apply writes nothing.
func TestApplyAndAgain(t *testing.T) {
	applier, count := newApplier(t, Options{})
	bundle := Bundle{Name: "again", Namespace: "again", Objects: planetest.Parse(t, web)}
	var recorded Inventory
	bundle.Record = func(inventory Inventory) error { recorded = inventory; return nil }
	first := mustApply(t, applier, bundle)
	want := []string{
		"created v1 Namespace again",
		"created v1 ConfigMap again/settings", "created v1 Secret again/password", "created v1 Service again/web",
		"created apps/v1 Deployment again/web",
	}
	if diff := cmp.Diff(want, actions(first)); diff != "" {
		t.Errorf("first apply (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(first.Inventory, recorded); diff != "" {
		t.Errorf("recorded before the first write (-inventory +recorded):\n%s", diff)
	}
	const discovery = 2
	if got := count.Load(); got != discovery+5 {
		t.Errorf("first apply took %d requests, want %d", got, discovery+5)
	}
	secret, err := planetest.Admin(t, cluster).Resource(secrets).Namespace("again").Get(t.Context(), "password", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if word, _, _ := unstructured.NestedString(secret.Object, "data", "word"); word != "c3dvcmRmaXNo" {
		t.Errorf("secret holds %q", word)
	}
	labels := map[string]string{v1alpha1.LabelManagedBy: "pinnace", v1alpha1.LabelBundle: "again"}
	if diff := cmp.Diff(labels, secret.GetLabels()); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}

	bundle.Previous = first.Inventory
	planetest.Within(t, 20*time.Second, "the Deployment settles", func() bool {
		health, err := applier.Health(t.Context(), bundle, first.Inventory)
		return err == nil && health.Ready == health.Total
	})
	second := mustApply(t, applier, bundle)
	if got := second.Count(Unchanged); got != 4 || len(second.Changes) != 4 {
		t.Errorf("second apply: %v", actions(second))
	}
	if diff := cmp.Diff(first.Inventory, second.Inventory); diff != "" {
		t.Errorf("inventory (-first +second):\n%s", diff)
	}
	after, err := planetest.Admin(t, cluster).Resource(secrets).Namespace("again").Get(t.Context(), "password", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if after.GetResourceVersion() != secret.GetResourceVersion() {
		t.Error("the second apply wrote the Secret")
	}
}

func TestChangeAndPrune(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	objects := planetest.Parse(t, web)
	bundle := Bundle{Name: "prune", Namespace: "prune", Objects: objects}
	bundle.Previous = mustApply(t, applier, bundle).Inventory

	changed := planetest.Parse(t, web)[:1] // only the Deployment is left
	if err := unstructured.SetNestedField(changed[0].Object, int64(2), "spec", "replicas"); err != nil {
		t.Fatal(err)
	}
	bundle.Objects = changed
	bundle.Options.Prune.Keep = []v1alpha1.KeepRule{{Kind: "Secret"}}
	// Another bundle owns the ConfigMap by now.
	patch := []byte(`{"metadata":{"labels":{"pinnace.dev/bundle":"other"}}}`)
	if _, err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("prune").Patch(t.Context(), "settings", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	result := mustApply(t, applier, bundle)
	got := actions(result)
	slices.Sort(got)
	want := []string{
		"configured apps/v1 Deployment prune/web", "deleted v1 ConfigMap prune/settings",
		"deleted v1 Service prune/web", "skipped v1 Secret prune/password",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Inventory{namespaceRef("prune"), RefOf(withNamespace(changed[0], "prune"))}, result.Inventory); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	for _, gvr := range []schema.GroupVersionResource{configMaps, secrets} {
		name := map[string]string{"configmaps": "settings", "secrets": "password"}[gvr.Resource]
		if _, err := planetest.Admin(t, cluster).Resource(gvr).Namespace("prune").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("%s was deleted: %v", name, err)
		}
	}
}

func withNamespace(object *unstructured.Unstructured, namespace string) *unstructured.Unstructured {
	object = object.DeepCopy()
	object.SetNamespace(namespace)
	return object
}

const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]ss.example.com}
spec:
  group: example.com
  names: {kind: %[2]s, plural: %[1]ss, singular: %[1]s}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
apiVersion: example.com/v1
kind: %[2]s
metadata: {name: first}
spec: {size: 3}`

// A custom resource beside its definition needs no second discovery.
func TestDefinitionAndResource(t *testing.T) {
	applier, count := newApplier(t, Options{})
	bundle := Bundle{Name: "crd", Namespace: "crd", Objects: planetest.Parse(t, fmt.Sprintf(crd, "boat", "Boat"))}
	result := mustApply(t, applier, bundle)
	want := []string{
		"created v1 Namespace crd", "created apiextensions.k8s.io/v1 CustomResourceDefinition boats.example.com",
		"created example.com/v1 Boat crd/first",
	}
	if diff := cmp.Diff(want, actions(result)); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	if got := count.Load(); got > 15 {
		t.Errorf("took %d requests", got)
	}
	bundle.Previous = result.Inventory
	bundle.Options.Health.Checks = []v1alpha1.HealthCheck{{APIVersion: "example.com/v1", Kind: "Boat", Ready: "self.status.afloat"}}
	health, err := applier.Health(t.Context(), bundle, result.Inventory)
	if err != nil || health.Ready != 2 || health.Total != 3 || health.Problems[0].Reason != ReasonInProgress {
		t.Errorf("health before the status: %+v, %v", health, err)
	}
	boats := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}
	applier.Watched(schema.GroupKind{Group: "example.com", Kind: "Boat"}, true) // by a watch that says nothing
	_, err = planetest.Admin(t, cluster).Resource(boats).Namespace("crd").Patch(t.Context(), "first", types.MergePatchType,
		[]byte(`{"status":{"afloat":true}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if health, err = applier.Health(t.Context(), bundle, result.Inventory); err != nil || health.Ready != 2 {
		t.Errorf("health by the watch: %+v, %v", health, err)
	}
	if health, err = applier.Recheck(t.Context(), bundle, result.Inventory); err != nil || health.Ready != 3 {
		t.Errorf("health after the status: %+v, %v", health, err)
	}
	removed, err := applier.Remove(t.Context(), bundle)
	if err != nil || len(removed.Inventory) != 0 || removed.Count(Deleted) != 3 {
		t.Errorf("remove: %v, %v, %v", actions(removed), removed.Inventory, err)
	}
}

func TestForce(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "force", Namespace: "force", Objects: planetest.Parse(t, web)[:1]}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	before := uidOf(t, "force", "web")

	selector := map[string]any{"app": "other"}
	set(t, bundle.Objects[0], selector, "spec", "selector", "matchLabels")
	set(t, bundle.Objects[0], selector, "spec", "template", "metadata", "labels")
	result, err := applier.Apply(t.Context(), bundle)
	if err == nil || result.Count(Failed) != 1 {
		t.Fatalf("an immutable field changed without force: %v, %v", actions(result), err)
	}
	bundle.Options.Force = true
	if result := mustApply(t, applier, bundle); result.Count(Created) != 1 {
		t.Errorf("with force: %v", actions(result))
	}
	forced := uidOf(t, "force", "web")
	if forced == before {
		t.Error("the Deployment was not recreated")
	}
	// What would not be taken if it were new is never deleted.
	set(t, bundle.Objects[0], map[string]any{"app": "third"}, "spec", "selector", "matchLabels")
	if _, err := applier.Apply(t.Context(), bundle); err == nil {
		t.Error("an invalid Deployment was applied")
	}
	if uidOf(t, "force", "web") != forced {
		t.Error("a Deployment was deleted for one that cannot be made")
	}
}

func uidOf(t *testing.T, namespace, name string) types.UID {
	t.Helper()
	object, err := planetest.Admin(t, cluster).Resource(deployments).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return object.GetUID()
}

func set(t *testing.T, object *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(object.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

// A bundle that adopts what kubectl made removes the fields that only kubectl had set.
func TestAdopt(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	mustApply(t, applier, Bundle{Name: "adopt-ns", Objects: planetest.Parse(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: adopt}")})
	theirs := planetest.Parse(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}}
data: {color: red, stale: "yes"}`)[0]
	if _, err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("adopt").Create(t.Context(), theirs,
		metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
		t.Fatal(err)
	}
	result := mustApply(t, applier, Bundle{Name: "adopt", Namespace: "adopt", Objects: planetest.Parse(t, web)[1:2]})
	if got := actions(result); !slices.Equal(got, []string{"configured v1 ConfigMap adopt/settings"}) {
		t.Errorf("actions: %v", got)
	}
	if result.Inventory.Has(namespaceRef("adopt")) {
		t.Error("a namespace that was there became the bundle's")
	}
	live, err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("adopt").Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(live.Object, "data")
	if diff := cmp.Diff(map[string]string{"color": "blue"}, data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if len(live.GetAnnotations()) != 0 {
		t.Errorf("annotations %v were left", live.GetAnnotations())
	}
}

// A service account without rights may do nothing, and the answer names it.
func TestImpersonation(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	mustApply(t, applier, Bundle{Name: "tenant-ns", Objects: planetest.Parse(t, `apiVersion: v1
kind: Namespace
metadata: {name: tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: editor, namespace: tenant}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, patch, create, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editor, namespace: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: editor}
subjects: [{kind: ServiceAccount, name: team, namespace: tenant}]`)})
	bundle := Bundle{Name: "tenant", Namespace: "tenant", Objects: planetest.Parse(t, web)[1:3]}
	bundle.Options.ServiceAccount = "team"
	var result Result
	planetest.Within(t, 20*time.Second, "the role counts", func() bool {
		var err error
		result, err = applier.Apply(t.Context(), bundle)
		var typed *Error
		if err == nil || !apierrors.IsForbidden(err) || !errors.As(err, &typed) {
			t.Fatalf("a Secret was applied without the right to: %v, %v", actions(result), err)
		}
		return typed.Object.Kind == "Secret"
	})
	if result.Count(Created)+result.Count(Configured) != 1 || result.Count(Failed) != 1 {
		t.Errorf("actions: %v", actions(result))
	}
	bundle.Previous = result.Inventory
	if removed, err := applier.Remove(t.Context(), bundle); err == nil || !removed.Inventory.Has(Ref{APIVersion: "v1", Kind: "Secret", Namespace: "tenant", Name: "password"}) {
		t.Errorf("remove without rights: %v, %v", removed, err)
	}
	bundle.Previous = bundle.Previous.Minus([]Ref{{APIVersion: "v1", Kind: "Secret", Namespace: "tenant", Name: "password"}})
	if removed, err := applier.Remove(t.Context(), bundle); err != nil || removed.Count(Deleted) != 1 {
		t.Errorf("remove within the rights: %v, %v", actions(removed), err)
	}
}

// What may exist stays in the inventory when the apply is cut short.
func TestCancelled(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	bundle := Bundle{Name: "cancelled", Namespace: "cancelled", Objects: planetest.Parse(t, web)}
	bundle.Record = func(Inventory) error { cancel(); return nil }
	bundle.Previous = InventoryOf(Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "cancelled", Name: "old"})
	result, err := applier.Apply(ctx, bundle)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(result.Inventory) != 5 {
		t.Errorf("inventory %v", result.Inventory)
	}
}

// A later stage isn't reached, and nothing is pruned, when an earlier one failed.
func TestFailedStage(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "failed", Namespace: "failed", Objects: planetest.Parse(t, web)}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	bundle.Objects = bundle.Objects[:2]
	set(t, bundle.Objects[1], map[string]any{"bad key": "x"}, "data")
	result, err := applier.Apply(t.Context(), bundle)
	if err == nil || !strings.Contains(err.Error(), "v1 ConfigMap failed/settings") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"failed v1 ConfigMap failed/settings", "skipped apps/v1 Deployment failed/web"}, actions(result)); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	if len(result.Inventory) != 5 {
		t.Errorf("inventory %v", result.Inventory)
	}
}

func TestRefusedBundles(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	for name, tc := range map[string]struct{ documents, want string }{
		"twice":   {web + "\n---\n" + strings.SplitN(web, "\n---\n", 2)[0], "apps/v1 Deployment refused/web is in the bundle twice"},
		"unnamed": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {}", "lacks apiVersion, kind or metadata.name"},
		"unknown": {"apiVersion: example.org/v1\nkind: Nothing\nmetadata: {name: x}", "find kind example.org/v1 Nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := applier.Apply(t.Context(), Bundle{Name: "refused", Namespace: "refused", Objects: planetest.Parse(t, tc.documents)})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if len(result.Changes) != 0 || len(result.Inventory) != 0 {
				t.Errorf("result %+v", result)
			}
		})
	}
	if _, err := planetest.Admin(t, cluster).Resource(nss).Get(t.Context(), "refused", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error("a refused bundle's namespace was created")
	}
}

func TestRemove(t *testing.T) {
	applier, _ := newApplier(t, Options{Wait: time.Second})
	bundle := Bundle{Name: "remove", Namespace: "remove", Objects: planetest.Parse(t, web)}
	held := planetest.Parse(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: held, finalizers: [example.com/never]}`)[0]
	bundle.Objects = append(bundle.Objects, held)
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	stranger := planetest.Parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stranger}")[0]
	if _, err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("remove").Create(t.Context(), stranger, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	result, err := applier.Remove(t.Context(), bundle)
	if err == nil || !strings.Contains(err.Error(), "example.com/never") {
		t.Errorf("a finalizer that hangs: %v", err)
	}
	var reason error
	for _, change := range result.Changes {
		if change.Object.Kind == "Namespace" {
			reason = change.Err
		}
	}
	if !errors.Is(reason, ErrInUse) || !strings.Contains(reason.Error(), "remove/stranger") {
		t.Errorf("the namespace with a stranger: %v", reason)
	}
	want := Inventory{{APIVersion: "v1", Kind: "ConfigMap", Namespace: "remove", Name: "held"}, namespaceRef("remove")}
	if diff := cmp.Diff(want, result.Inventory); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	release := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("remove").Patch(t.Context(), "held", types.MergePatchType, release, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := planetest.Admin(t, cluster).Resource(configMaps).Namespace("remove").Delete(t.Context(), "stranger", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	bundle.Previous = result.Inventory
	planetest.Within(t, 20*time.Second, "the rest goes", func() bool {
		result, _ := applier.Remove(t.Context(), bundle)
		bundle.Previous = result.Inventory
		return len(result.Inventory) == 0
	})
}

// A namespace that somebody is deleting is waited out, then made again.
func TestTerminatingNamespace(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "terminating", Namespace: "terminating", Objects: planetest.Parse(t, web)}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	if err := planetest.Admin(t, cluster).Resource(nss).Delete(t.Context(), "terminating", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	planetest.Within(t, 20*time.Second, "the Deployment goes", func() bool {
		_, err := planetest.Admin(t, cluster).Resource(deployments).Namespace("terminating").Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	result := mustApply(t, applier, bundle)
	if result.Count(Created) == 0 {
		t.Errorf("actions: %v", actions(result))
	}
	for _, object := range bundle.Objects[:1] {
		uidOf(t, "terminating", object.GetName())
	}
}

// Of the workers that wait for one namespace the first to see it gone makes it again; the others must not then wait
// for the new one to go.
func TestNamespaceMadeAnewByAnother(t *testing.T) {
	applier, _ := newApplier(t, Options{Wait: 2 * time.Second})
	bundle := Bundle{Name: "anew", Namespace: "anew", Objects: planetest.Parse(t, web)[:1]}
	mustApply(t, applier, bundle)
	client, err := applier.client(bundle)
	if err != nil {
		t.Fatal(err)
	}
	waiting := &run{Applier: applier, client: client, bundle: bundle}
	if err := waiting.waitGone(t.Context(), namespaces, "", "anew"); err != nil {
		t.Errorf("waits for a namespace that nobody deletes: %v", err)
	}
}

func TestPruneDisabled(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "off", Namespace: "off", Objects: planetest.Parse(t, web)}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	bundle.Objects, bundle.Options = nil, pruneOff()
	result := mustApply(t, applier, bundle)
	if result.Count(Skipped) != 4 || result.Count(Deleted) != 0 {
		t.Errorf("actions: %v", actions(result))
	}
}

// An ignored field keeps its live value, also when only we own it; an immediate second apply changes nothing.
func TestIgnoredField(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	bundle := Bundle{Name: "ignored", Namespace: "ignored", Objects: planetest.Parse(t, web)[:1]}
	bundle.Options.Drift.Ignore = []v1alpha1.DriftIgnore{{Kind: "Deployment", JSONPointers: []string{"/spec/replicas"}}}
	bundle.Previous = mustApply(t, applier, bundle).Inventory
	replicas := func() int64 {
		object, err := planetest.Admin(t, cluster).Resource(deployments).Namespace("ignored").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
		return n
	}
	set(t, bundle.Objects[0], int64(4), "spec", "replicas")
	mustApply(t, applier, bundle)
	if got := replicas(); got != 1 {
		t.Errorf("a field that is ignored went from 1 to %d", got)
	}
	_, err := planetest.Admin(t, cluster).Resource(deployments).Namespace("ignored").Patch(t.Context(), "web", types.MergePatchType,
		[]byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{FieldManager: "autoscaler"})
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, applier, bundle)
	if got := replicas(); got != 3 {
		t.Errorf("the autoscaler's 3 replicas became %d", got)
	}
}
