package drift

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

var (
	webhooks    = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}
	autoscalers = schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}
	deleteNow   = metav1.DeleteOptions{}
)

func color(t *testing.T, namespace string) string {
	t.Helper()
	settings := get(t, configMaps, namespace, "settings")
	if settings == nil {
		return ""
	}
	text, _, _ := unstructured.NestedString(settings.Object, "data", "color")
	return text
}

// mutate serves a webhook that answers each admission with a JSON patch, and registers it for the namespace.
func mutate(t *testing.T, namespace string, patch func(kind string) string) *atomic.Int64 {
	t.Helper()
	calls := &atomic.Int64{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review struct {
			Request struct {
				UID  string
				Kind struct{ Kind string }
			}
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": map[string]any{
			"uid": review.Request.UID, "allowed": true, "patchType": "JSONPatch",
			"patch": base64.StdEncoding.EncodeToString([]byte(patch(review.Request.Kind.Kind))),
		}}) // an answer that doesn't arrive fails the test by itself
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	configuration := parse(t, `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: `+namespace+`}
webhooks:
  - name: mutate.example.com
    clientConfig: {url: "`+server.URL+`", caBundle: "`+base64.StdEncoding.EncodeToString(ca)+`"}
    rules: [{apiGroups: ["", apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments, configmaps]}]
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: `+namespace+`}}
    sideEffects: None
    failurePolicy: Fail
    admissionReviewVersions: [v1]`)
	admin := planetest.Admin(t, cluster).Resource(webhooks)
	if _, err := admin.Create(t.Context(), configuration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Delete(context.WithoutCancel(t.Context()), namespace, deleteNow) })
	probe := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}"
	if _, err := planetest.Admin(t, cluster).Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).
		Create(t.Context(), parse(t, probe), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	planetest.Within(t, 20*time.Second, "the webhook is called", func() bool {
		_, _ = planetest.Admin(t, cluster).Resource(configMaps).Namespace(namespace).Create(t.Context(),
			parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: probe}"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return calls.Load() > 0
	})
	return calls
}

// A webhook that changes what we apply, and adds to it anew each time, is not fought: the dry run goes through it too.
func TestMutatingWebhook(t *testing.T) {
	ns := planetest.Fresh("mutated")
	var stamp atomic.Int64
	calls := mutate(t, ns, func(kind string) string {
		fresh := `{"op":"add","path":"/metadata/annotations","value":{"stamp":"` + time.Duration(stamp.Add(1)).String() + `"}}`
		if kind != "Deployment" {
			return `[` + fresh + `]`
		}
		return `[` + fresh + `,{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"mirror.example.com/web:1"},
			{"op":"add","path":"/spec/template/spec/terminationGracePeriodSeconds","value":7}]`
	})
	k := keep(t, ns, v1alpha1.DeployOptions{}, web, settings)
	image := func() any {
		containers, _, _ := unstructured.NestedSlice(get(t, deployments, ns, "web").Object, "spec", "template", "spec", "containers")
		return containers[0].(map[string]any)["image"]
	}
	if image() != "mirror.example.com/web:1" {
		t.Fatalf("the webhook didn't change the image: %v", image())
	}
	// A second agent, which remembers nothing, compares everything and finds nothing to do.
	fresh, err := apply.New(cluster.Config(), apply.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range k.bundle.Objects {
		verdict, err := Check(t.Context(), fresh, k.bundle, object)
		if err != nil || verdict.Drifted() {
			t.Errorf("%s: verdict %s, %v", object.GetKind(), verdict, err)
		}
	}
	// What somebody changes is put back, once.
	patch(t, deployments, ns, "web", `{"spec":{"replicas":3}}`)
	patch(t, configMaps, ns, "settings", `{"data":{"color":"red"}}`)
	planetest.Within(t, 20*time.Second, "both are as they were", func() bool {
		return color(t, ns) == "blue" && replicas(get(t, deployments, ns, "web")) == 1
	})
	planetest.Within(t, 20*time.Second, "quiet", func() bool {
		return !fightsFor(t, k, time.Second)
	})
	repairs := 0
	_, acts := k.seen()
	for _, act := range acts {
		if act == Repair {
			repairs++
		}
	}
	if repairs != 2 || image() != "mirror.example.com/web:1" {
		t.Errorf("%d repairs: %v; the image is %v, after %d admissions", repairs, acts, image(), calls.Load())
	}
}

// fightsFor reports whether anything was compared while time passed.
func fightsFor(t *testing.T, k *keeper, d time.Duration) bool {
	t.Helper()
	before, _ := k.seen()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
	after, _ := k.seen()
	return len(after) != len(before)
}

// An autoscaler's replicas are left to it without any rule, also when a new version is applied; without an autoscaler
// they are ours
// again with the next apply.
func TestAutoscaler(t *testing.T) {
	ns := planetest.Fresh("scaled")
	k := keep(t, ns, v1alpha1.DeployOptions{}, web)
	autoscaler := parse(t, `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, minReplicas: 1, maxReplicas: 9}`)
	admin := planetest.Admin(t, cluster)
	if _, err := admin.Resource(autoscalers).Namespace(ns).Create(t.Context(), autoscaler, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale := func(to string) {
		t.Helper()
		if _, err := admin.Resource(deployments).Namespace(ns).Patch(t.Context(), "web", types.MergePatchType,
			[]byte(`{"spec":{"replicas":`+to+`}}`), metav1.PatchOptions{FieldManager: "kube-controller-manager"}, "scale"); err != nil {
			t.Fatal(err)
		}
	}
	verdict := func(count int) Verdict {
		t.Helper()
		var verdicts []Verdict
		planetest.Within(t, 20*time.Second, "a verdict", func() bool { verdicts, _ = k.seen(); return len(verdicts) >= count })
		return verdicts[count-1]
	}
	scale("5")
	if got := verdict(1); got.Kind != Ignored {
		t.Errorf("verdict %s", got)
	}
	changed := k.bundle
	changed.Objects = []*unstructured.Unstructured{parse(t, strings.Replace(web, "web:1", "web:2", 1))}
	if _, err := k.applier.Apply(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if got := replicas(get(t, deployments, ns, "web")); got != 5 {
		t.Errorf("a new version set replicas to %d", got)
	}
	if err := admin.Resource(autoscalers).Namespace(ns).Delete(t.Context(), "web", deleteNow); err != nil {
		t.Fatal(err)
	}
	if _, err := k.applier.Apply(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if got := replicas(get(t, deployments, ns, "web")); got != 1 {
		t.Errorf("without an autoscaler there are %d replicas", got)
	}
}
