package publish

import (
	"errors"
	"fmt"
	"testing"
)

func TestRender(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"bundles/a/pinnace.yaml": `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
spec:
  variables: {SIDE: "${ .cluster.labels.side }", N: "3"}
  overrides: [{when: {clusterName: west}, skip: true}]
`,
		"bundles/a/cm.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, labels: {side: '${SIDE}'}}\nspec: {replicas: '${N}'}\n",
		"bundles/b/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: '${X}'}\n",
	})
	opts := options(t, dir, releaseSigner(t)).LoadOptions
	tests := []struct {
		cluster, bundle, want string
		err                   error
	}{
		{cluster: "east", bundle: "a", want: "map[metadata:map[labels:map[side:east] name:a] spec:map[replicas:3]]"},
		{cluster: "east", bundle: "b", want: "map[data:map[x:${X}] metadata:map[name:b]]"}, // no variables: left alone
		{cluster: "west", bundle: "a", err: ErrNotSelected},
		{cluster: "north", bundle: "a", err: ErrNotInFleet},
		{cluster: "east", bundle: "z", err: ErrNotInFleet},
	}
	for _, test := range tests {
		t.Run(test.cluster+"/"+test.bundle, func(t *testing.T) {
			got, err := Render(t.Context(), opts, test.cluster, test.bundle)
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if test.err != nil {
				return
			}
			if len(got.Objects) != 1 || got.Bundle.Name != test.bundle || got.Cluster != test.cluster {
				t.Fatalf("got %+v", got)
			}
			object := got.Objects[0].Object
			delete(object, "apiVersion")
			delete(object, "kind")
			if text := fmt.Sprint(object); text != test.want {
				t.Errorf("got %s, want %s", text, test.want)
			}
		})
	}
}
