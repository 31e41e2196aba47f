package apply

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane"
)

// cluster is a real API server with controllers, shared by the tests: each has namespaces of its own.
var cluster *controlplane.Cluster

func TestMain(m *testing.M) { os.Exit(withCluster(m)) }

func withCluster(m *testing.M) int {
	ctx := context.Background()
	plane, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = plane.Close() }()
	if cluster, err = plane.Cluster(ctx, "apply"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// counter counts requests.
type counter struct {
	atomic.Int64
	next http.RoundTripper
}

func (c *counter) RoundTrip(request *http.Request) (*http.Response, error) {
	c.Add(1)
	return c.next.RoundTrip(request)
}

// newApplier returns an applier and the count of its requests.
func newApplier(t *testing.T, options Options) (*Applier, *counter) {
	t.Helper()
	count := &counter{}
	config := cluster.Config()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		count.next = next
		return count
	})
	applier, err := New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	return applier, count
}

// parse reads YAML documents.
func parse(t *testing.T, documents string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for document := range strings.SplitSeq(documents, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			t.Fatalf("%v: %s", err, document)
		}
		out = append(out, object)
	}
	return out
}

// mustApply applies and fails the test on errors.
func mustApply(t *testing.T, applier *Applier, bundle Bundle) Result {
	t.Helper()
	result, err := applier.Apply(t.Context(), bundle)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// actions lists what happened, one line each.
func actions(result Result) []string {
	var out []string
	for _, change := range result.Changes {
		out = append(out, string(change.Action)+" "+change.Object.String())
	}
	return out
}

// admin reads and writes behind the applier's back.
func admin(t *testing.T) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(rest.CopyConfig(cluster.Config()))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually tries until the check holds.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("timed out: %s", what)
		}
	}
}

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web:1}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: swordfish}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}`

func pruneOff() v1alpha1.DeployOptions {
	off := false
	return v1alpha1.DeployOptions{Prune: v1alpha1.Prune{Enabled: &off}}
}
