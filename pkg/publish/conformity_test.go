package publish

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/manifests"
	"pinnace.dev/pinnace/pkg/target"
)

// definition defines kind Boat, with the field that is named.
func definition(field string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  names: {kind: Boat, plural: boats}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, properties: {%s: {type: string}}}}
`, field)
}

// Only what may be defined by another bundle is kept until the end; which definition counts doesn't depend on which
// bundle is built first.
func TestObjectsAreCheckedAsTheyCome(t *testing.T) {
	rendered := []string{
		"apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: a}\nsail: red\n---\n" + configMap("a", "1"),
		definition("mast"),
		definition("sail"),
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			list := make([]*variant, len(rendered))
			check, err := newConformity("1.34", nil, len(list))
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range order {
				objects, err := manifests.Decode([]byte(rendered[i]))
				if err != nil {
					t.Fatal(err)
				}
				list[i] = &variant{bundle: &target.Bundle{}, objects: objects}
				check.take(i, list[i])
			}
			var waiting []string
			for _, object := range slices.Concat(check.waiting...) {
				waiting = append(waiting, object.GetKind())
			}
			if diff := cmp.Diff([]string{"Boat"}, waiting); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if n := len(slices.Concat(check.defined...)); n != 2 {
				t.Errorf("%d definitions, want 2", n)
			}
			if findings, warnings, err := check.end(list); err != nil || len(findings) > 0 || len(warnings) > 0 {
				t.Errorf("the last definition has the field: %v, %v, %v", findings, warnings, err)
			}
		})
	}
}
