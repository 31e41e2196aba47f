package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const overlaidDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  template: {spec: {containers: [{name: web, image: "nginx:1", args: [a]}, {name: side, image: busybox}]}}
`

func overlaidFiles() map[string][]byte {
	files := map[string][]byte{}
	for name, content := range map[string]string{
		"web.yaml":                              overlaidDeployment,
		"sub/config.yaml":                       "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b, c: d}\n",
		"two.yaml":                              overlaidDeployment + "---\napiVersion: v1\nkind: A\n",
		"overlays/scale/web_patch.yaml":         "spec:\n  replicas: 3\n  template: {spec: {containers: [{name: web, image: \"nginx:2\"}]}}\n",
		"overlays/json/sub/config_patch.yaml":   "- {op: replace, path: /data/a, value: x}\n- {op: remove, path: /data/c}\n",
		"overlays/replace/sub/config.yaml":      "# none\n",
		"overlays/replace/more.yaml":            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n",
		"overlays/delete/web_patch.yaml":        "$patch: delete\n",
		"overlays/again/more_patch.yaml":        "data: {x: \"y\"}\n",
		"overlays/list/web_patch.yaml":          "text\n",
		"overlays/two/two_patch.yaml":           "spec: {}\n",
		"overlays/scalefactor/absent_patch.yml": "spec: {}\n",
	} {
		files[name] = []byte(content)
	}
	return files
}

func TestOverlaid(t *testing.T) {
	tests := []struct {
		name     string
		overlays []string
		file     string
		want     []string // parts; none when the file must hold no object
	}{
		{"strategic merge keeps lists by key", []string{"scale"}, "web.yaml", []string{"replicas: 3", "image: nginx:2", "image: busybox", "- a\n"}},
		{"json patch", []string{"json"}, "sub/config.yaml", []string{"data:\n  a: x\n"}},
		{"replaced by nothing", []string{"replace"}, "sub/config.yaml", nil},
		{"a file more, patched by the next", []string{"replace", "again"}, "more.yaml", []string{"x: \"y\""}},
		{"deleted by a patch", []string{"delete"}, "web.yaml", nil},
		{"untouched", nil, "web.yaml", []string{"replicas: 1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := overlaidFiles()
			got, err := Overlaid(files, test.overlays)
			if err != nil {
				t.Fatal(err)
			}
			text := string(got[test.file])
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("got %s\nwant %q", text, want)
				}
			}
			if objects, err := parse(test.file, got[test.file], true); err != nil || (len(objects) == 0) != (test.want == nil) {
				t.Errorf("%d objects, %v", len(objects), err)
			}
			if diff := cmp.Diff(overlaidFiles(), files); diff != "" {
				t.Errorf("the files themselves changed:\n%s", diff)
			}
		})
	}
}

func TestOverlaysThatDoNotFit(t *testing.T) {
	for overlay, want := range map[string]string{
		"absent":      "there is no file in overlays/absent",
		"../scale":    `"../scale" is no name of an overlay`,
		"":            `"" is no name of an overlay`,
		"again":       "overlays/again/more_patch.yaml: there is no more.yaml to patch",
		"scalefactor": "overlays/scalefactor/absent_patch.yml: there is no absent.yml to patch",
		"list":        "overlays/list/web_patch.yaml: patch web.yaml: line 1: is no object",
		"two":         "overlays/two/two_patch.yaml: patch two.yaml: a file of 2 objects cannot be patched; split it",
	} {
		if _, err := Overlaid(overlaidFiles(), []string{overlay}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", overlay, err, want)
		}
	}
}

// Text that looks like something else stays text. Kustomize's JSON patches know no whole numbers above 2^53.
func TestPatchedValues(t *testing.T) {
	const base = `apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data: {a: "yes", b: "1e3", c: "010", d: "null", e: "1_000", f: "0x1f", g: "~", h: "2020-01-01", i: "on", j: "1.0", k: "", l: "a: b", m: " x ", n: "=", o: "12:30:45"}
big: 9007199254740992
float: 0.1
yes: true
`
	for _, change := range []string{"data: {z: \"no\"}\n", "[{op: add, path: /data/z, value: \"no\"}]\n"} {
		got, err := patch([]byte(base), []byte(change))
		if err != nil {
			t.Fatal(err)
		}
		before, err := parse("a", []byte(base), true)
		if err != nil {
			t.Fatal(err)
		}
		after, err := parse("a", got, true)
		if err != nil {
			t.Fatalf("%v\n%s", err, got)
		}
		want := before[0].Object
		want["data"].(map[string]any)["z"] = "no"
		if diff := cmp.Diff(want, after[0].Object); diff != "" {
			t.Errorf("%s: %s", change, diff)
		}
	}
}
