package conform

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
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
		{"unknown field", "", deployment("{repicas: 2, selector: {}, template: {spec: {containers: [{name: a}, {name: b, imagePullPolcy: Never}]}}}"), []string{
			`spec.repicas: unknown field "repicas"; did you mean "replicas"?`,
			`spec.template.spec.containers[1].imagePullPolcy: unknown field "imagePullPolcy"; did you mean "imagePullPolicy"?`,
		}},
		{"unknown field at the top", "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, lables: {a: b}}\ndatas: {}", []string{
			`datas: unknown field "datas"; did you mean "data"?`, `metadata.lables: unknown field "lables"; did you mean "labels"?`,
		}},
		{"wrong types", "", deployment(`{replicas: "2", selector: {matchLabels: {a: 1}}, paused: 0, template: {spec: {containers: [{name: a, ports: {a: b}, args: x}, {name: [], stdin: "yes"}]}}}`), []string{
			"spec.paused: must be true or false, got the number 0",
			`spec.replicas: must be a whole number, got the text "2"`,
			"spec.selector.matchLabels.a: must be a text, got the number 1",
			`spec.template.spec.containers[0].args: must be a list, got the text "x"`,
			"spec.template.spec.containers[0].ports: must be a list, got a mapping",
			"spec.template.spec.containers[1].name: must be a text, got a list",
			`spec.template.spec.containers[1].stdin: must be true or false, got the text "yes"`,
		}},
		{"numbers", "", deployment("{replicas: 2.5, minReadySeconds: 3000000000, strategy: {rollingUpdate: {maxSurge: 1.5}}, selector: {}, template: {}}"), []string{
			"spec.minReadySeconds: 3000000000 is not between -2147483648 and 2147483647",
			"spec.replicas: must be a whole number, got the number 2.5",
			"spec.strategy.rollingUpdate.maxSurge: must be a whole number or a text, got the number 1.5",
		}},
		{"no quantity", "", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a}\nspec: {resources: {requests: {storage: many}}}", []string{
			`spec.resources.requests.storage: must be a quantity, such as 100m, 1.5 or 2Gi, got the text "many"`,
		}},
		{"no base64", "", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {tls.key: '%', ok: YQ==}", []string{"data[tls.key]: is not base64"}},
		{"required", "", deployment("{template: {spec: {containers: [{image: a, env: [{value: b}], readinessProbe: {httpGet: {path: /}}}], volumes: [{configMap: {items: [{key: a}]}}]}}}"), []string{
			"spec.selector: is required, and not set",
			"spec.template.spec.containers[0].env[0].name: is required, and not set",
			"spec.template.spec.containers[0].name: is required, and not set",
			"spec.template.spec.containers[0].readinessProbe.httpGet.port: is required, and not set",
			"spec.template.spec.volumes[0].configMap.items[0].path: is required, and not set",
			"spec.template.spec.volumes[0].name: is required, and not set",
		}},
		{"required, and null", "", deployment("{selector: null, template: {spec: {containers: null}}}"), []string{
			"spec.selector: is required, and not set", "spec.template.spec.containers: is required, and not set",
		}},
		{"optional though written when empty", "", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a, creationTimestamp: null}", nil},
		{"status is the server's", "", "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: a}\nstatus: {conditions: [{}]}", nil},
		{"a variable that only the cluster knows", "", deployment(`{replicas: "${N}", selector: {}, template: {}}`), nil},
		{"a definition", "", strings.Replace(beacons, "  group: sea.example\n", "  grup: sea.example\n", 1), []string{
			"spec.group: is required, and not set", `spec.grup: unknown field "grup"; did you mean "group"?`,
		}},
		{"removed", "1.25", "apiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: a}", []string{
			"apiVersion: batch/v1beta1 CronJob was removed from Kubernetes in 1.25; use batch/v1 CronJob",
		}},
		{"not removed yet", "1.24", "apiVersion: batch/v1beta1\nkind: CronJob\nmetadata: {name: a}", nil},
		{"removed, and forgotten", "1.25", "apiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata: {name: a}", []string{
			"apiVersion: policy/v1beta1 PodSecurityPolicy was removed from Kubernetes in 1.25; use the labels pod-security",
		}},
		{"too new", "v1.20.4", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}", []string{"apiVersion: batch/v1 CronJob came with Kubernetes 1.21; 1.20 doesn't know it"}},
		{"no such version", "", "apiVersion: apps/v2\nkind: Deployment\nmetadata: {name: a}", []string{"apiVersion: apps/v2 has no kind Deployment; it is in apps/v1"}},
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

func TestDeprecated(t *testing.T) {
	for _, test := range []struct{ version, object, want string }{
		{"1.33", "apiVersion: v1\nkind: Endpoints", "v1 Endpoints is deprecated since Kubernetes 1.33; use discovery.k8s.io/v1 EndpointSlice"},
		{"1.32", "apiVersion: v1\nkind: Endpoints", ""},
		{"1.24", "apiVersion: batch/v1beta1\nkind: CronJob", "batch/v1beta1 CronJob is deprecated since Kubernetes 1.21, and is removed in 1.25; use batch/v1 CronJob"},
		{"1.25", "apiVersion: batch/v1beta1\nkind: CronJob", ""}, // a finding
		{"1.34", "apiVersion: apps/v1\nkind: Deployment", ""},
		{"1.34", "apiVersion: air.example/v1\nkind: Kite", ""},
	} {
		schemas, err := New(test.version, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := schemas.Deprecated(object(t, test.object)); got.Message != test.want {
			t.Errorf("%s in %s: got %q, want %q", test.object, test.version, got.Message, test.want)
		}
	}
}

// What an API server's decoder refuses is found; what is found, beside what is missing, it refuses.
func FuzzTyped(f *testing.F) {
	for _, seed := range []string{
		`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1,"strategy":{"rollingUpdate":{"maxSurge":"25%"}}}}`,
		`{"apiVersion":"v1","kind":"Secret","data":{"a":"YQ=="},"metadata":{"creationTimestamp":"x"}}`,
		`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":1,"resources":{"limits":{"cpu":"x"}}}]}}`,
		`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","spec":{"versions":[{"schema":{"openAPIV3Schema":{"default":{},"enum":[1]}}}]}}`,
		`{"apiVersion":"batch/v1","kind":"CronJob","spec":{"jobTemplate":{"spec":{"template":null,"parallelism":1e3}}},"status":[]}`,
		`{"apiVersion":"batch/v1","kind":"CronJob","spec":{"jobTemplate":{"spec":{"template":null,"parallelism":0e0,"backoffLimit":1e3}}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		object := &unstructured.Unstructured{}
		if object.UnmarshalJSON([]byte(text)) != nil || strings.Contains(text, "${") {
			return
		}
		typed, err := own().New(object.GroupVersionKind())
		if err != nil {
			return
		}
		data, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		findings := slices.DeleteFunc(checkTyped(object.Object, typed), func(f Finding) bool { return strings.Contains(f.Message, "is required") })
		strict, err := kjson.UnmarshalStrict(data, typed)
		if refused := err != nil || len(strict) > 0; refused != (len(findings) > 0) {
			t.Errorf("%s\nthe decoder says %v %v, found %v", text, err, strict, findings)
		}
	})
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
