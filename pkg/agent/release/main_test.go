package release

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"k8s.io/client-go/kubernetes"

	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

// cluster is a real API server with controllers, shared by the tests: each has a namespace of its own.
var cluster *controlplane.Cluster

func TestMain(m *testing.M) { os.Exit(planetest.Main(m, "release", &cluster)) }

// shop is a chart with a Deployment and a ConfigMap, and more files on top.
func shop(t *testing.T, more map[string]string) []byte {
	t.Helper()
	files := map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
		"values.yaml": "replicas: 1\ncolor: blue\nextra: {a: 1}\n",
		"templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web, labels: {app.kubernetes.io/managed-by: {{ .Release.Service }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
`,
		"templates/settings.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {color: {{ .Values.color | quote }}, extra: {{ .Values.extra | toJson | quote }}}
`,
	}
	maps.Copy(files, more)
	chart, err := archive.Pack("shop", byName(files), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

func byName(files map[string]string) map[string][]byte {
	out := map[string][]byte{}
	for name, content := range files {
		out[name] = []byte(content)
	}
	return out
}

func newReleaser(t *testing.T) (*Releaser, *apply.Applier) {
	t.Helper()
	applier, err := apply.New(cluster.Config(), apply.Options{Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	releaser := New(applier, Options{})
	t.Cleanup(releaser.Wait)
	return releaser, applier
}

func mustDeploy(t *testing.T, releaser *Releaser, release Release) apply.Result {
	t.Helper()
	result, err := releaser.Deploy(t.Context(), release)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func actions(result apply.Result) []string {
	var out []string
	for _, change := range result.Changes {
		out = append(out, string(change.Action)+" "+change.Object.String())
	}
	slices.Sort(out)
	return out
}

// history is what helm history shows: revisions with their status.
func history(t *testing.T, releaser *Releaser, release Release) []string {
	t.Helper()
	config, err := releaser.config(release)
	if err != nil {
		t.Fatal(err)
	}
	revisions, err := action.NewHistory(config).Run(release.name())
	if err != nil {
		return nil
	}
	slices.SortFunc(revisions, func(a, b *helmrelease.Release) int { return a.Version - b.Version })
	var out []string
	for _, revision := range revisions {
		out = append(out, fmt.Sprintf("%d %s", revision.Version, revision.Info.Status))
	}
	return out
}

func client(t *testing.T) kubernetes.Interface {
	t.Helper()
	return kubernetes.NewForConfigOrDie(cluster.Config())
}
