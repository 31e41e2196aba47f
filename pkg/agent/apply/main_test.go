package apply

import (
	"os"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// cluster is a real API server with controllers, shared by the tests: each has namespaces of its own.
var cluster *controlplane.Cluster

func TestMain(m *testing.M) { os.Exit(planetest.Main(m, "apply", &cluster)) }

// newApplier returns an applier and the count of its requests.
func newApplier(t *testing.T, options Options) (*Applier, *planetest.Counter) {
	t.Helper()
	config := cluster.Config()
	count := planetest.CountRequests(config)
	applier, err := New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	return applier, count
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
