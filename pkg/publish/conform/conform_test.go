package conform

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return out
}

const beacons = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: beacons.sea.example}
spec:
  group: sea.example
  scope: Namespaced
  names: {kind: Beacon, plural: beacons}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [colour]
              x-kubernetes-validations: [{rule: "self.colour != 'red' || self.seconds > 1", message: red blinks slowly}]
              properties:
                colour: {type: string, enum: [red, green]}
                seconds: {type: integer, minimum: 1, default: 3}
                lamps: {type: array, items: {type: object, properties: {watt: {type: integer}}}}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
    - {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
`

func TestCheck(t *testing.T) {
	deployment := func(spec string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: " + spec
	}
	beacon := func(spec string) string {
		return "apiVersion: sea.example/v1\nkind: Beacon\nmetadata: {name: b}\nspec: " + spec
	}
	for _, test := range []struct {
		name, version, object string
		want                  []string
	}{
		{"good", "", deployment("{replicas: 2, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}}}"), nil},
		{"unknown field", "", deployment("{repicas: 2, template: {spec: {containers: [{name: a}, {name: b, imagePullPolcy: Never}]}}}"), []string{
			`spec.repicas: unknown field "repicas"; did you mean "replicas"?`,
			`spec.template.spec.containers[1].imagePullPolcy: unknown field "imagePullPolcy"; did you mean "imagePullPolicy"?`,
		}},
		{"unknown field at the top", "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, lables: {a: b}}\ndatas: {}", []string{
			`datas: unknown field "datas"; did you mean "data"?`, `metadata.lables: unknown field "lables"; did you mean "labels"?`,
		}},
		{"wrong type", "", deployment(`{replicas: "2"}`), []string{"spec.replicas: must be a whole number, got string"}},
		{"no quantity", "", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a}\nspec: {resources: {requests: {storage: many}}}", []string{"quantities must match"}},
		{"removed", "1.25", "apiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: a}", []string{
			"apiVersion: batch/v1beta1 CronJob was removed from Kubernetes in 1.25; use batch/v1 CronJob",
		}},
		{"not removed yet", "1.24", "apiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: a}", nil},
		{"too new", "v1.20.4", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}", []string{"apiVersion: batch/v1 CronJob came with Kubernetes 1.21; 1.20 doesn't know it"}},
		{"no such version", "", "apiVersion: apps/v2\nkind: Deployment\nmetadata: {name: a}", []string{"apiVersion: apps/v2 has no kind Deployment; it is in apps/v1, apps/v1beta1, apps/v1beta2"}},
		{"custom resource", "", beacon("{colour: green, seconds: 2, lamps: [{watt: 5}], free: {a: b}}"), nil},
		{"custom resource with defaults only", "", beacon("{colour: green}"), nil},
		{"unknown fields of it", "", beacon("{colour: green, secconds: 2, lamps: [{wat: 5}]}"), []string{
			`spec.lamps[0].wat: unknown field "wat"; did you mean "watt"?`, `spec.secconds: unknown field "secconds"; did you mean "seconds"?`,
		}},
		{"schema of it", "", beacon("{seconds: 0}"), []string{"spec.colour: Required value", "spec.seconds: Invalid value: 0"}},
		{"rule of it", "", beacon("{colour: red, seconds: 1}"), []string{"red blinks slowly"}},
		{"version of it that isn't served", "", strings.Replace(beacon("{}"), "example/v1", "example/v0", 1), []string{"sea.example/v0 has no kind Beacon; it is in sea.example/v1"}},
		{"nobody's kind", "", "apiVersion: air.example/v1\nkind: Kite\nmetadata: {name: a}", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			schemas, err := New(test.version, []*unstructured.Unstructured{object(t, beacons)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, finding := range schemas.Check(object(t, test.object)) {
				got = append(got, finding.String())
			}
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(want, got string) bool { return strings.Contains(got, want) || strings.Contains(want, got) })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if knows := schemas.Knows(object(t, test.object)); knows != (test.name != "nobody's kind") {
				t.Errorf("knows: %v", knows)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	old := strings.Replace(beacons, "apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1", 1)
	wrong := strings.Replace(beacons, "type: integer, minimum: 1", "minimum: 1", 1)
	for _, test := range []struct{ version, definition, want string }{
		{"2.1", beacons, `"2.1" is no version of Kubernetes; write it as 1.37`},
		{"latest", beacons, "is no version"},
		{"1.99", beacons, "1.99 of Kubernetes is not known; known are 1.16 to 1.37"},
		{"", old, "apiextensions.k8s.io/v1beta1 is not served any more"},
		{"", wrong, "not structural"},
	} {
		if _, err := New(test.version, []*unstructured.Unstructured{object(t, test.definition)}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.version, err, test.want)
		}
	}
}
