package drift

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/e2e/controlplane"
)

// cluster is a real API server with controllers, shared by the tests: each has a namespace of its own.
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
	if cluster, err = plane.Cluster(ctx, "drift"); err != nil {
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

var runs atomic.Int64

// fresh returns a namespace that no test had before, also under go test -count.
func fresh(name string) string { return fmt.Sprintf("%s-%d", name, runs.Add(1)) }

func parse(t *testing.T, document string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return object
}

// admin writes behind the agent's back.
func admin(t *testing.T) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// within tries until the check holds, and returns how long it took.
func within(t *testing.T, limit time.Duration, what string, check func() bool) time.Duration {
	t.Helper()
	started := time.Now()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
	return time.Since(started)
}
