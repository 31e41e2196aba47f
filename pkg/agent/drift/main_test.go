package drift

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// cluster is a real API server with controllers, shared by the tests: each has a namespace of its own.
var cluster *controlplane.Cluster

func TestMain(m *testing.M) {
	code := planetest.Main(m, "drift", &cluster)
	if err := leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// leaks says what watchers left running. Connections that clients keep open for the next request are none.
func leaks() error {
	return goleak.Find(
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

func parse(t *testing.T, document string) *unstructured.Unstructured {
	t.Helper()
	return planetest.Parse(t, document)[0]
}
