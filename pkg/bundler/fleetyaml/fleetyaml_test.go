package fleetyaml

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the expected results")

type files map[string]string

func (f files) File(name string) ([]byte, error) {
	content, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return []byte(content), nil
}

// Each archive holds a bundle's folder, the pinnace.yaml that its fleet.yaml amounts to, and the findings.
func TestConvert(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			folder := files{}
			for _, file := range archive.Files {
				folder[file.Name] = string(file.Data)
			}
			converted, err := Convert("web/fleet.yaml", []byte(folder["fleet.yaml"]), folder)
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := converted.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := document.Decode[v1alpha1.Bundle]("pinnace.yaml", bundle, v1alpha1.KindBundle); err != nil {
				t.Errorf("the result is no bundle: %v", err)
			}
			var findings strings.Builder
			for _, finding := range converted.Findings {
				level := "error"
				if finding.Harmless {
					level = "warning"
				}
				fmt.Fprintf(&findings, "%s: %v\n", level, finding.Err)
			}
			got := map[string]string{"want/pinnace.yaml": string(bundle), "want/findings": findings.String()}
			for i, file := range archive.Files {
				if want, ok := got[file.Name]; ok {
					archive.Files[i].Data = []byte(want)
					if diff := cmp.Diff(string(file.Data), want); diff != "" && !*update {
						t.Errorf("%s, want -, got +; go test -update writes it:\n%s", file.Name, diff)
					}
				}
			}
			if *update {
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"misspelt", "namespce: a\n", `web/fleet.yaml:1:1: unknown field "namespce" in fleet.yaml; did you mean "namespace"?`},
		{"misspelt below", "helm:\n  releasName: a\n", `web/fleet.yaml:2:3: unknown field "releasName" in fleet.yaml.helm; did you mean "releaseName"?`},
		{"mode", "targetCustomizationMode: Last\n", `web/fleet.yaml:1:26: fleet.yaml.targetCustomizationMode must be one of FirstMatch, AllMatches, got "Last"`},
		{"type", "helm: {atomic: 1}\n", "web/fleet.yaml:1:16: fleet.yaml.helm.atomic must be true or false, got the number 1"},
		{"list", "- a\n", "web/fleet.yaml:1:1: expected a mapping, got a list"},
		{"two documents", "name: a\n---\nname: b\n", "web/fleet.yaml:3:1: file holds a second document; expected one"},
		{"syntax", "name: [\n", "web/fleet.yaml:"},
		{"alias", "helm: {values: {a: &x 1, b: *x}}\n", "alias *x is not supported"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Convert("web/fleet.yaml", []byte(test.in), files{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestEmpty(t *testing.T) {
	for _, in := range []string{"", "# nothing\n", "---\n"} {
		converted, err := Convert("web/fleet.yaml", []byte(in), files{})
		if err != nil || len(converted.Findings) > 0 {
			t.Fatalf("%q: %v %v", in, err, converted.Findings)
		}
		if got := converted.Bundle.Spec.Drift.Mode; got != v1alpha1.DriftWarn {
			t.Errorf("drift mode %q, want warn", got)
		}
	}
}

// Errors about the bundle stand where its fleet.yaml says what they are about.
func TestPlaces(t *testing.T) {
	const in = `name: Web
namespace: A_b
helm:
  chart: ./chart
  timeoutSeconds: 3
  values:
    a: b
  valuesFrom:
    - configMapKeyRef: {name: ""}
      secretKeyRef: {name: b}
dependsOn:
  - selector: {}
    name: web
targetCustomizations:
  - name: nobody
  - name: eu
    clusterSelector: {}
    helm:
      values: {a: c}
overrideTargets:
  - clusterGroup: eu
diff:
  comparePatches:
    - kind: A
      jsonPointers: [/a]
`
	converted, err := Convert("web/fleet.yaml", []byte(in), files{})
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]int{
		"metadata.name": 1, "spec.namespace": 2, "spec.helm.chart": 4, "spec.helm.timeout": 5, "spec.helm.values.a": 7,
		"spec.helm.valuesFrom[0]": 9, "spec.helm.valuesFrom[1]": 10, "spec.dependsOn[0].bundle": 13, "spec.dependsOn[1]": 12,
		"spec.overrides[0].when": 16, "spec.overrides[0].values.a": 19, "spec.targets[0]": 21, "spec.drift.ignore[0].jsonPointers": 25,
		"spec.nothing": 1, "": 1,
	} {
		var found document.Error
		if !errors.As(converted.Document.Errorf(path, "x"), &found) || found.Line != line {
			t.Errorf("%s: line %d, want %d", path, found.Line, line)
		}
	}
}

func TestTemplates(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain", "plain"},
		{"${ .ClusterName }", "${ .cluster.name }"},
		{"a-${.ClusterLabels.env}-${ .ClusterAnnotations.x }", "a-${.cluster.labels.env}-${ .cluster.annotations.x }"},
		{`${ index .ClusterLabels "a.b/c" }`, `${ index .cluster.labels "a.b/c" }`},
		{`${ index $.ClusterValues "a" | default "}.ClusterName" }`, `${ index $.cluster.values "a" | default "}.ClusterName" }`},
		{"${ get .ClusterLabels `.ClusterName` }.ClusterName", "${ get .cluster.labels `.ClusterName` }.ClusterName"},
		{`${ if eq .ClusterLabels.env "prod" }3${ else }1${ end }`, `${ if eq .cluster.labels.env "prod" }3${ else }1${ end }`},
		{"${ .ClusterValues.ClusterName }", "${ .cluster.values.ClusterName }"},
		{`${ range $k, $v := .ClusterLabels }${ $v.ClusterName }${ end }`, `${ range $k, $v := .cluster.labels }${ $v.ClusterName }${ end }`},
		{`${ printf "\"}" }${(.ClusterName)}`, `${ printf "\"}" }${(.cluster.name)}`},
		{"${ .ClusterName", "${ .cluster.name"},
		{`${ "open`, `${ "open`},
	}
	for _, test := range tests {
		c := converter{}
		if got := c.rewriteText(test.in, "helm"); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.in, got, test.want)
		}
	}
}

func FuzzConvert(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "fleet.yaml" {
				f.Add(string(file.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, in string) {
		converted, err := Convert("fleet.yaml", []byte(in), files{"Chart.yaml": ""})
		if err != nil {
			return
		}
		bundle, err := converted.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := document.Decode[v1alpha1.Bundle]("pinnace.yaml", bundle, v1alpha1.KindBundle); err != nil && len(converted.Findings) == 0 {
			t.Fatalf("%v\n%s", err, bundle)
		}
	})
}
