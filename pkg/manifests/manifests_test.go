package manifests

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestSubstitute(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"ID": "07", "N": "3", "ON": "true", "TITLE": "Werk: 7 # Süd", "PORT": "8080", "KEY": "zone"}
	const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: beacons.example.com}
spec:
  group: example.com
  names: {kind: Beacon}
  versions:
  - name: v1
    schema: {openAPIV3Schema: {properties: {spec: {properties: {
      site: {type: string}, count: {type: integer}, ratio: {type: number}, on: {type: boolean},
      port: {x-kubernetes-int-or-string: true}, list: {type: array, items: {type: integer}}}}}}}
---
`
	tests := []struct {
		name, in, want string
		fails          string
	}{
		{name: "string in a map of strings", in: config("data: {a: '${ID}', b: 'x ${ID} y', c: '${N}'}"), want: config("data: {a: '07', b: 'x 07 y', c: '3'}")},
		{name: "text that YAML would misread", in: config("data: {a: '${TITLE}'}"), want: config("data: {a: 'Werk: 7 # Süd'}")},
		{name: "default", in: config("data: {a: '${X:=none}', b: '${X:-07}'}"), want: config("data: {a: none, b: '07'}")},
		{name: "literal", in: config("data: {a: '$${ID}', b: 'cost $5', c: $ID}"), want: config("data: {a: '${ID}', b: 'cost $5', c: $ID}")},
		{name: "key", in: config("data: {'${KEY}': a}"), want: config("data: {zone: a}")},
		{name: "two keys become one", in: config("data: {'${KEY}': a, zone: b}"), fails: `"zone"`},
		{name: "missing", in: config("data: {a: '${X}'}"), fails: "data.a"},
		{name: "missing, named", in: config("data: {a: '${X}'}"), fails: `"X"`},
		{name: "opted out", in: annotated("data: {a: '${X}'}"), want: annotated("data: {a: '${X}'}")},
		{
			name: "types of a built-in kind",
			in:   "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {n: '${N}'}}\nspec: {replicas: '${N}', paused: '${ON}', template: {spec: {containers: [{name: c, ports: [{containerPort: '${PORT}'}], args: ['${N}'], livenessProbe: {httpGet: {port: '${PORT}'}}}]}}}",
			want: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {n: '3'}}\nspec: {replicas: 3, paused: true, template: {spec: {containers: [{name: c, ports: [{containerPort: 8080}], args: ['3'], livenessProbe: {httpGet: {port: 8080}}}]}}}",
		},
		{
			name: "types of a definition in the bundle",
			in:   definition + "apiVersion: example.com/v1\nkind: Beacon\nmetadata: {name: b}\nspec: {site: '${ID}', count: '${N}', ratio: '${N}', on: '${ON}', port: '${PORT}', list: ['${N}']}",
			want: definition + "apiVersion: example.com/v1\nkind: Beacon\nmetadata: {name: b}\nspec: {site: '07', count: 3, ratio: 3, on: true, port: 8080, list: [3]}",
		},
		{
			name: "unknown kind",
			in:   "apiVersion: other.example/v1\nkind: Thing\nmetadata: {name: b}\nspec: {count: '${N}'}",
			want: "apiVersion: other.example/v1\nkind: Thing\nmetadata: {name: b}\nspec: {count: '3'}",
		},
		{name: "name disappears", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '${X:=}'}", fails: "metadata.name"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			objects, err := readObjects([]byte(test.in), MaxObjects)
			if err != nil {
				t.Fatal(err)
			}
			err = Substitute(objects, variables)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want, err := readObjects([]byte(test.want), MaxObjects)
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if diff := cmp.Diff(text(t, want[i].Object), text(t, objects[i].Object)); diff != "" {
					t.Errorf("object %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

func TestNoVariablesLeaveObjectsAlone(t *testing.T) {
	t.Parallel()
	objects, err := readObjects([]byte(config("data: {a: '${X}'}")), MaxObjects)
	if err != nil {
		t.Fatal(err)
	}
	if err := Substitute(objects, nil); err != nil {
		t.Errorf("substitute: %v", err)
	}
}

func config(rest string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n" + rest
}

func annotated(rest string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, annotations: {pinnace.dev/substitute: disabled}}\n" + rest
}

func text(t *testing.T, value any) string {
	t.Helper()
	data, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReadObjects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     string // names, or part of the error after a !
	}{
		{"several documents", config("") + "\n---\n" + config(""), "c c"},
		{"empty documents and comments", "---\n# nothing\n---\n\n---\n" + config(""), "c"},
		{"list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}", "a b"},
		{"JSON", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "j"}}`, "j"},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}", "!kind is missing"},
		{"no apiVersion", "kind: ConfigMap\nmetadata: {name: a}", "!apiVersion is missing"},
		{"no name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}", "!metadata.name is missing"},
		{"key twice", config("data: {a: 1, a: 2}"), "!a"},
		{"not YAML", "a: [", "!document 1"},
		{"scalar", "just text", "!document 1"},
		{"aliases that expand without end", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]", "!excessive aliasing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			objects, err := readObjects([]byte(test.in), MaxObjects)
			if want, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, object := range objects {
				names = append(names, object.GetName())
			}
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("names %q, want %q", got, test.want)
			}
		})
	}
}

func TestReadObjectsIsBounded(t *testing.T) {
	t.Parallel()
	if _, err := readObjects([]byte(strings.Repeat(config("")+"\n---\n", 4)), 3); err == nil {
		t.Error("four objects were read, three are allowed")
	}
}

func FuzzReadObjects(f *testing.F) {
	f.Add([]byte(config("data: {a: b}")))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{}]"))
	f.Fuzz(func(t *testing.T, in []byte) {
		objects, err := readObjects(in, 100)
		if err != nil {
			return
		}
		for _, object := range objects {
			if err := checkObject(object); err != nil {
				t.Errorf("%v", err)
			}
		}
		_ = Substitute(objects, map[string]string{"A": "b"}) // must not panic
	})
}
