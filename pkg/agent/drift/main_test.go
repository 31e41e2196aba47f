package drift

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// cluster is a real API server with controllers, shared by the tests: each has a namespace of its own.
var cluster *controlplane.Cluster

func TestMain(m *testing.M) { os.Exit(planetest.Main(m, "drift", &cluster)) }

func parse(t *testing.T, document string) *unstructured.Unstructured {
	t.Helper()
	return planetest.Parse(t, document)[0]
}
