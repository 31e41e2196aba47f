package schemas

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/examples"
)

var update = flag.Bool("update", false, "write the schemas")

var types = map[string]any{
	v1alpha1.KindFleet:        v1alpha1.Fleet{},
	v1alpha1.KindCluster:      v1alpha1.Cluster{},
	v1alpha1.KindClusterGroup: v1alpha1.ClusterGroup{},
	v1alpha1.KindBundle:       v1alpha1.Bundle{},
	v1alpha1.KindAgentConfig:  v1alpha1.AgentConfig{},
	v1alpha1.KindTrustPolicy:  v1alpha1.TrustPolicy{},
}

func TestSchemasMatchTypes(t *testing.T) {
	for _, kind := range Kinds {
		want := generate(t, kind, types[kind])
		if *update {
			if err := os.WriteFile(File(kind), want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := Schema(kind)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s differs from the Go type; run: go test ./docs/schemas -update\n%s", File(kind), diff)
		}
	}
}

func generate(t *testing.T, kind string, value any) []byte {
	t.Helper()
	reflector := jsonschema.Reflector{
		Anonymous: true,
		Mapper: func(typ reflect.Type) *jsonschema.Schema {
			if typ == reflect.TypeFor[metav1.Duration]() {
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, Description: "a duration such as 30s, 5m or 720h"}
			}
			if typ == reflect.TypeFor[intstr.IntOrString]() {
				return &jsonschema.Schema{
					OneOf:       []*jsonschema.Schema{{Type: "integer", Minimum: "0"}, {Type: "string", Pattern: `^[0-9]+%$`}},
					Description: "a number, or a percentage such as 10%",
				}
			}
			return nil
		},
	}
	if err := reflector.AddGoComments("pinnace.dev/pinnace", "../../api/v1alpha1"); err != nil {
		t.Fatal(err)
	}
	// Comments are keyed by where they were read; the import path is what the reflector looks up.
	comments := make(map[string]string, len(reflector.CommentMap))
	for key, comment := range reflector.CommentMap {
		comments["pinnace.dev/pinnace/api/v1alpha1"+key[strings.LastIndex(key, "v1alpha1")+len("v1alpha1"):]] = sentence(comment)
	}
	reflector.CommentMap = comments
	schema := reflector.Reflect(value)
	schema.Title = "Pinnace " + kind
	root := schema.Definitions[kind]
	root.Properties.Set("apiVersion", &jsonschema.Schema{Const: v1alpha1.APIVersion})
	root.Properties.Set("kind", &jsonschema.Schema{Const: kind})
	data, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

var markers = regexp.MustCompile(`\s*\+\w+(:\S+)?`)

func sentence(comment string) string {
	return strings.TrimSpace(markers.ReplaceAllString(strings.Join(strings.Fields(comment), " "), ""))
}

func TestSchemas(t *testing.T) {
	tests := map[string]struct {
		kind, in string
		valid    bool
	}{
		"bundle":        {"Bundle", "{apiVersion: pinnace.dev/v1alpha1, kind: Bundle, metadata: {name: a}, spec: {drift: {mode: warn}, force: true}}", true},
		"unknown field": {"Bundle", "{apiVersion: pinnace.dev/v1alpha1, kind: Bundle, metadata: {name: a}, spec: {namepsace: x}}", false},
		"wrong mode":    {"Bundle", "{apiVersion: pinnace.dev/v1alpha1, kind: Bundle, metadata: {name: a}, spec: {drift: {mode: maybe}}}", false},
		"duration":      {"Fleet", "{apiVersion: pinnace.dev/v1alpha1, kind: Fleet, metadata: {name: a}, spec: {registry: r, inventory: [], sources: [], validity: 5}}", false},
		"wrong kind":    {"Fleet", "{apiVersion: pinnace.dev/v1alpha1, kind: Bundle, metadata: {name: a}, spec: {registry: r, inventory: [], sources: []}}", false},
		"free values":   {"Cluster", "{apiVersion: pinnace.dev/v1alpha1, kind: Cluster, metadata: {name: a}, spec: {values: {a: {b: [1]}}}}", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := validate(t, test.kind, []byte(test.in))
			if (err == nil) != test.valid {
				t.Errorf("valid = %v, want %v: %v", err == nil, test.valid, err)
			}
		})
	}
}

// Every document of the example fleet satisfies its schema.
func TestExamplesSatisfySchemas(t *testing.T) {
	checked := 0
	err := fs.WalkDir(examples.Fleet(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(examples.Fleet(), name)
		if err != nil {
			return err
		}
		for _, part := range bytes.Split(data, []byte("\n---\n")) {
			var meta v1alpha1.TypeMeta
			if err := yaml.Unmarshal(part, &meta); err != nil || meta.APIVersion != v1alpha1.APIVersion {
				continue
			}
			checked++
			if err := validate(t, meta.Kind, part); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		return nil
	})
	if err != nil || checked < 8 {
		t.Errorf("checked %d documents, want at least 8: %v", checked, err)
	}
}

func validate(t *testing.T, kind string, document []byte) error {
	t.Helper()
	data, err := Schema(kind)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := validator.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	compiler := validator.NewCompiler()
	if err := compiler.AddResource(File(kind), parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile(File(kind))
	if err != nil {
		t.Fatal(err)
	}
	converted, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	value, err := validator.UnmarshalJSON(bytes.NewReader(converted))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}
