package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Fields of older Kustomize build what the newer ones do, without telling the terminal of it.
func TestDeprecatedFields(t *testing.T) {
	files := map[string]string{
		"base/kustomization.yaml": "resources: [a.yaml]\n",
		"base/a.yaml":             overlaidDeployment,
		"patch.yaml":              "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 5}\n",
		"web/kustomization.yaml": "bases: [../base]\ncommonLabels: {team: a}\npatchesStrategicMerge:\n- ../patch.yaml\n- |-\n  apiVersion: apps/v1\n" +
			"  kind: Deployment\n  metadata: {name: web}\n  spec: {paused: true}\npatches:\n- target: {kind: Deployment}\n  patch: |-\n    - {op: add, path: /spec/minReadySeconds, value: 3}\n",
		"new/kustomization.yaml": "resources: [../base]\nlabels: [{pairs: {team: a}, includeSelectors: true}]\npatches:\n- path: ../patch.yaml\n- patch: |-\n" +
			"    apiVersion: apps/v1\n    kind: Deployment\n    metadata: {name: web}\n    spec: {paused: true}\n- target: {kind: Deployment}\n  patch: |-\n    - {op: add, path: /spec/minReadySeconds, value: 3}\n",
	}
	at := folder(t, files)
	var streams []string
	for _, name := range []string{"web", "new"} {
		at.Path = name
		objects, err := Kustomize(at, KustomizeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := objects.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, string(stream))
	}
	if diff := cmp.Diff(streams[0], streams[1]); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{"replicas: 5", "paused: true", "minReadySeconds: 3", "team: a"} {
		if !strings.Contains(streams[0], want) {
			t.Errorf("%q is not in\n%s", want, streams[0])
		}
	}
}
