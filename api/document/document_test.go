package document

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const bundleHead = "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\n"

func TestDecode(t *testing.T) {
	const in = `# comment
---
apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: web, labels: {version: "1.0", since: 2020-01-01}}
spec:
  namespace: shop
  helm:
    values: {replicas: 3, ratio: 0.5, big: 9007199254740993, list: [a, 1, null], on: true}
    timeout: 90s
    atomic: true
    maxHistory: 4
  prune: {enabled: false}
  dependsOn:
    - selector: {matchExpressions: [{key: layer, operator: In, values: [crds]}]}
---
`
	got, document, err := Decode[v1alpha1.Bundle]("pinnace.yaml", []byte(in), v1alpha1.KindBundle)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := v1alpha1.Bundle{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundle},
		Metadata: v1alpha1.Metadata{Name: "web", Labels: map[string]string{"version": "1.0", "since": "2020-01-01"}},
		Spec: v1alpha1.BundleSpec{
			Namespace: "shop",
			Helm: &v1alpha1.Helm{
				Values: v1alpha1.Values{
					"replicas": int64(3), "ratio": 0.5, "big": int64(9007199254740993),
					"list": []any{"a", int64(1), nil}, "on": true,
				},
				HelmOptions: v1alpha1.HelmOptions{
					Timeout: metav1.Duration{Duration: 90 * time.Second}, Atomic: true, MaxHistory: 4,
				},
			},
			DependsOn: []v1alpha1.Dependency{{Selector: &metav1.LabelSelector{
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "layer", Operator: "In", Values: []string{"crds"}}},
			}}},
			DeployOptions: v1alpha1.DeployOptions{Prune: v1alpha1.Prune{Enabled: &no}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bundle (-want +got):\n%s", diff)
	}
	if document.Line != 3 || document.Name != "web" || document.File != "pinnace.yaml" {
		t.Errorf("document = %q line %d name %q, want pinnace.yaml line 3 name web", document.File, document.Line, document.Name)
	}
}

func TestDecodeErrors(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"unknown field": {
			bundleHead + "spec:\n  namepsace: x\n",
			`f.yaml:4:3: unknown field "namepsace" in Bundle.spec; did you mean "namespace"?`,
		},
		"wrong case": {
			bundleHead + "spec:\n  dependson: []\n",
			`f.yaml:4:3: unknown field "dependson" in Bundle.spec; did you mean "dependsOn"?`,
		},
		"unknown field, few known": {
			bundleHead + "spec:\n  kustomize: {directory: x}\n",
			`f.yaml:4:15: unknown field "directory" in Bundle.spec.kustomize; known are path`,
		},
		"unknown field, nothing near": {
			bundleHead + "spec:\n  zzzzzzzz: {}\n",
			`f.yaml:4:3: unknown field "zzzzzzzz" in Bundle.spec; remove it`,
		},
		"all at once, sorted": {
			bundleHead + "metadata: {name: 7}\nspec:\n  helm:\n    maxHistory: many\n    atomic: yes\n  targets: all\n",
			"f.yaml:3:18: Bundle.metadata.name must be a string, got the number 7; put it in quotes\n" +
				"f.yaml:6:17: Bundle.spec.helm.maxHistory must be a whole number, got \"many\"\n" +
				"f.yaml:7:13: Bundle.spec.helm.atomic must be true or false, got \"yes\"\n" +
				"f.yaml:8:12: Bundle.spec.targets must be a list, got \"all\"",
		},
		"duplicate key": {
			bundleHead + "spec:\n  namespace: a\n  namespace: b\n",
			`f.yaml:5:3: duplicate key "namespace" in Bundle.spec; it is set in line 4 already, remove one`,
		},
		"duplicate key in free values": {
			bundleHead + "spec:\n  helm:\n    values: {a: 1, a: 2}\n",
			`f.yaml:5:20: duplicate key "a" in Bundle.spec.helm.values; it is set in line 5 already, remove one`,
		},
		"in a list": {
			bundleHead + "spec:\n  targets:\n    - clusterName: a\n    - clusterGrup: b\n",
			`f.yaml:6:7: unknown field "clusterGrup" in Bundle.spec.targets[1]; did you mean "clusterGroup"?`,
		},
		"duration": {
			bundleHead + "spec:\n  health: {timeout: 5}\n",
			`f.yaml:4:21: Bundle.spec.health.timeout must be a duration such as 30s, 5m or 720h, got the number 5`,
		},
		"duration in words": {
			bundleHead + "spec:\n  health: {timeout: 5 minutes}\n",
			`f.yaml:4:21: Bundle.spec.health.timeout must be a duration such as 30s, 5m or 720h, got "5 minutes"`,
		},
		"not in the enum": {
			bundleHead + "spec:\n  drift: {mode: fix}\n",
			`f.yaml:4:17: Bundle.spec.drift.mode must be one of correct, warn, off, got "fix"`,
		},
		"off is a string": {
			bundleHead + "spec:\n  drift: {mode: off, ignored: []}\n",
			`f.yaml:4:22: unknown field "ignored" in Bundle.spec.drift; did you mean "ignore"?`,
		},
		"alias": {
			bundleHead + "spec:\n  helm:\n    values: {a: &x 1, b: *x}\n",
			`f.yaml:5:26: alias *x is not supported; write the value out`,
		},
		"merge key": {
			bundleHead + "spec:\n  helm:\n    values: {<<: {a: 1}}\n",
			`f.yaml:5:14: merge key << in Bundle.spec.helm.values is not supported; write the entries out`,
		},
		"key is no string": {
			bundleHead + "spec:\n  helm:\n    values: {80: x}\n",
			`f.yaml:5:14: a key in Bundle.spec.helm.values must be a string, got the number 80; put it in quotes`,
		},
		"not a JSON number": {
			bundleHead + "spec:\n  helm:\n    values: {a: .nan}\n",
			`f.yaml:5:17: Bundle.spec.helm.values.a: the number .nan is not a number that JSON knows; put it in quotes`,
		},
		"custom tag": {
			bundleHead + "spec:\n  helm:\n    values: {a: !secret x}\n",
			`f.yaml:5:17: Bundle.spec.helm.values.a: tag !secret is not supported`,
		},
		"overflow": {
			bundleHead + "spec:\n  helm: {maxHistory: 99999999999999999999}\n",
			`f.yaml:4:22: Bundle.spec.helm.maxHistory must be a whole number, got the number 99999999999999999999`,
		},
		"wrong kind": {
			"apiVersion: pinnace.dev/v1alpha1\nkind: Fleet\n",
			`f.yaml:2:7: kind "Fleet" is not expected here; expected Bundle`,
		},
		"wrong apiVersion": {
			"apiVersion: v1\nkind: Bundle\n",
			`f.yaml:1:13: unknown apiVersion "v1"; expected "pinnace.dev/v1alpha1"`,
		},
		"no apiVersion": {
			"kind: Bundle\n",
			`f.yaml:1:1: apiVersion is missing; add a line such as apiVersion: pinnace.dev/v1alpha1`,
		},
		"no kind": {
			"apiVersion: v1\n",
			`f.yaml:1:1: kind is missing; add a line such as kind: Bundle`,
		},
		"kind is no string": {
			"apiVersion: v1\nkind: [a]\n",
			`f.yaml:2:7: kind must be a string such as Bundle, got a list`,
		},
		"two documents": {
			bundleHead + "---\n" + bundleHead,
			`f.yaml:4:1: file holds 2 documents; expected one of kind Bundle only`,
		},
		"empty": {
			"# nothing\n---\n",
			`f.yaml:1:1: file is empty; expected a document with apiVersion: pinnace.dev/v1alpha1 and kind: Bundle`,
		},
		"no mapping": {
			"hello\n",
			`f.yaml:1:1: expected a document that begins with apiVersion: and kind:, got "hello"`,
		},
		"too deep": {
			bundleHead + "spec:\n  helm:\n    values: {a: " + strings.Repeat("[", 80) + strings.Repeat("]", 80) + "}\n",
			`f.yaml:5:78: nested deeper than 64 levels`,
		},
		"too large": {
			"#" + strings.Repeat("x", MaxBytes),
			`f.yaml:1:1: file has 4194305 bytes, more than the 4194304 that are read; split it`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := Decode[v1alpha1.Bundle]("f.yaml", []byte(test.in), v1alpha1.KindBundle)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			var finding Error
			if !errors.As(err, &finding) || finding.File != "f.yaml" {
				t.Errorf("%#v holds no Error of f.yaml", err)
			}
		})
	}
}

func TestReadSyntaxError(t *testing.T) {
	documents, err := Read("f.yaml", []byte("apiVersion: v1\nkind: A\n---\na: b: c\n"))
	if len(documents) != 1 {
		t.Errorf("got %d documents, want the one before the error", len(documents))
	}
	var finding Error
	if !errors.As(err, &finding) || finding.Line != 4 || !strings.HasPrefix(finding.Message, "not valid YAML: ") {
		t.Errorf("err = %v, want one of line 4", err)
	}
}

func TestReadTooManyDocuments(t *testing.T) {
	_, err := Read("f.yaml", []byte(strings.Repeat("---\napiVersion: v1\nkind: A\n", MaxDocuments+1)))
	if err == nil || !strings.Contains(err.Error(), "more than 10000 documents; split it") {
		t.Errorf("err = %v", err)
	}
}

func TestErrorf(t *testing.T) {
	const in = bundleHead + `metadata:
  labels:
    app.kubernetes.io/name: x
spec:
  dependsOn:
    - bundle: a
    - bundle: b
  health: {checks: []}
`
	documents, err := Read("f.yaml", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"":              "f.yaml:1:1: x",
		"kind":          "f.yaml:2:7: x",
		"metadata":      "f.yaml:3:1: x",
		"metadata.name": "f.yaml:3:1: x",
		"metadata.labels[app.kubernetes.io/name]": "f.yaml:5:29: x",
		"spec.dependsOn[1].bundle":                "f.yaml:9:15: x",
		"spec.dependsOn[1]":                       "f.yaml:9:7: x",
		"spec.dependsOn[7].bundle":                "f.yaml:7:3: x",
		"spec.health.checks[0].kind":              "f.yaml:10:12: x",
		"nothing.at.all":                          "f.yaml:1:1: x",
	}
	for path, want := range tests {
		if got := documents[0].Errorf(path, "%s", "x").Error(); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
	if got := (Document{File: "f.yaml"}).Errorf("a", "x").Error(); got != "f.yaml:1:1: x" {
		t.Errorf("zero document: got %q", got)
	}
}

// A document of any other group is readable too: manifests are checked by the same rules.
func TestDecodeForeign(t *testing.T) {
	documents, err := Read("m.yaml", []byte("apiVersion: v1\nkind: ConfigMap\ndata: {a: \"1\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := documents[0].Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"a": "1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		bundleHead, bundleHead + "spec:\n  helm:\n    values: {a: &x [1], b: *x, <<: *x}\n",
		"a: b: c", "---\n---\n", "[1, 2]", "\xff\xfe", bundleHead + "spec: {health: {timeout: 5m}, drift: {mode: 1}}\n",
		bundleHead + "? {a: b}\n: c\n", bundleHead + "spec: !!binary aGk=\n", "%YAML 1.1\n--- !x\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, document, err := Decode[v1alpha1.Bundle]("f.yaml", data, v1alpha1.KindBundle)
		var findings Errors
		if errors.As(err, &findings) && len(findings) == 0 {
			t.Error("an error without findings")
		}
		document.Errorf("spec.helm.values[0]", "x")
	})
}

func TestReadForeign(t *testing.T) {
	type foreign struct {
		Chart struct {
			Path string `json:"path"`
		} `json:"chart"`
	}
	document, err := ReadForeign("their.yaml", []byte("# theirs\n---\nchart:\n  path: web\n---\n"), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	var got foreign
	if err := document.Decode(&got); err != nil || got.Chart.Path != "web" {
		t.Fatalf("%+v, %v", got, err)
	}
	placed := document.WithPlaces(func(path string) string { return strings.Replace(path, "spec.helm", "chart", 1) })
	if got, want := placed.Errorf("spec.helm.path", "x").Error(), "their.yaml:4:9: x"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for in, want := range map[string]string{
		"":                                    "",
		"# nothing\n":                         "",
		"chart: {pat: a}":                     `their.yaml:1:9: unknown field "pat" in theirs.chart; did you mean "path"?`,
		"chart: {}\n---\na: b":                "their.yaml:3:1: file holds a second document; expected one",
		"[a]":                                 "their.yaml:1:1: expected a mapping, got a list",
		"a: [":                                "their.yaml:1:1: not valid YAML",
		"a: " + strings.Repeat("a", MaxBytes): "their.yaml:1:1: file has ",
	} {
		document, err := ReadForeign("their.yaml", []byte(in), "theirs")
		if err == nil {
			err = document.Decode(&foreign{})
		}
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", in, err, want)
		}
	}
}
