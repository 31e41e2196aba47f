// Package planetest gives the tests of a package one real cluster, and what they all do with it.
package planetest

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

	"pinnace.dev/pinnace/e2e/controlplane"
)

// Main runs the tests of a package with a cluster of that name, and returns the exit code.
func Main(m *testing.M, name string, cluster **controlplane.Cluster) int {
	ctx := context.Background()
	plane, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = plane.Close() }()
	if *cluster, err = plane.Cluster(ctx, name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var namespaces atomic.Int64

// Fresh returns a name that no test had before, also under go test -count.
func Fresh(name string) string { return fmt.Sprintf("%s-%d", name, namespaces.Add(1)) }

// Counter counts requests.
type Counter struct {
	atomic.Int64
	next http.RoundTripper
}

// CountRequests counts the requests of clients that are made from config from now on.
func CountRequests(config *rest.Config) *Counter {
	count := &Counter{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		count.next = next
		return count
	})
	return count
}

// RoundTrip implements [http.RoundTripper].
func (c *Counter) RoundTrip(request *http.Request) (*http.Response, error) {
	c.Add(1)
	return c.next.RoundTrip(request)
}

// Parse reads YAML documents that a line of three dashes separates.
func Parse(t testing.TB, documents string) []*unstructured.Unstructured {
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

// Admin returns a client that reads and writes behind the agent's back.
func Admin(t testing.TB, cluster *controlplane.Cluster) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Within tries until the check holds, and returns how long it took.
func Within(t testing.TB, limit time.Duration, what string, check func() bool) time.Duration {
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
