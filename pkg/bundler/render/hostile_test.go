package render

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func folder(t *testing.T, files map[string]string) Folder {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		full := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Folder{Root: root, Path: "web"}
}

// trap is a server that nobody may call.
func trap(t *testing.T) string {
	t.Helper()
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(func() {
		server.Close()
		if calls.Load() > 0 {
			t.Error("the network was used")
		}
	})
	return server.URL
}

func readChart(t *testing.T, files map[string]string) Chart {
	t.Helper()
	read, err := ReadChart(folder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return read
}

const service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"

func TestHostileKustomizations(t *testing.T) {
	url := trap(t)
	transformer := "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: t}\npath: " + url + "/p.yaml\n"
	generator := "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: g}\nfiles: [k=" + url + "]\n"
	tests := []struct{ name, kustomization, want string }{
		{"remote file", "resources: [URL/a.yaml]", "is remote"},
		{"upper case", "resources: [HTTP://127.0.0.1/a.yaml]", "is remote"},
		{"opaque url", "resources: ['http:127.0.0.1/a.yaml']", "is remote"},
		{"remote base", "resources: ['URL/org/repo//base?ref=v1']", "is remote"},
		{"github", "resources: [github.com/org/repo/base]", "is remote"},
		{"scp", "resources: ['git@host:org/repo']", "is remote"},
		{"user and host", "resources: [git@host/org/repo]", "is remote"},
		{"file url", "bases: ['file:///tmp/repo']", "is remote"},
		{"forced git", "components: ['git::https://host/org/repo']", "is remote"},
		{"patch", "resources: [a.yaml]\npatches: [{path: URL/p.yaml}]", "is remote"},
		{"json patch", "resources: [a.yaml]\npatchesJson6902: [{target: {kind: Service, name: a}, path: URL/p.yaml}]", "is remote"},
		{"strategic patch", "resources: [a.yaml]\npatchesStrategicMerge: [URL/p.yaml]", "is remote"},
		{"config map file", "configMapGenerator: [{name: c, files: [k=URL/x]}]", "is remote"},
		{"secret env", "secretGenerator: [{name: c, envs: [URL/x]}]", "is remote"},
		{"old env", "secretGenerator: [{name: c, env: URL/x}]", "is remote"},
		{"crd", "crds: [URL/x]", "is remote"},
		{"schema", "resources: [a.yaml]\nopenapi: {path: URL/x}", "is remote"},
		{"configuration", "resources: [a.yaml]\nconfigurations: [URL/x]", "is remote"},
		{"replacement", "resources: [a.yaml]\nreplacements: [{path: URL/x}]", "is remote"},
		{"braces", "resources: ['URL/{x}']", "is remote"},
		{"line end", "resources: [\"https://127.0.0.1:1/org/repo\\n\"]", "is remote"},
		{"line end in a transformer", "resources: [a.yaml]\ntransformers: [\"https://127.0.0.1:1/org/repo: x\\n\"]", "is remote"},
		{"line end after a user", "resources: [a.yaml]\ngenerators: [\"git@127.0.0.1/org/repo\\nx: y\"]", "is remote"},
		{"braces in a patch", "resources: [a.yaml]\npatches: [{path: 'URL/{x}'}]", "is remote"},
		{"transformer", "resources: [a.yaml]\ntransformers: [URL/x]", "is remote"},
		{"transformer's patch", "resources: [a.yaml]\ntransformers: [t.yaml]", "names the remote"},
		{"inline transformer's patch", "resources: [a.yaml]\ntransformers:\n- |-\n  " + strings.ReplaceAll(transformer, "\n", "\n  "), "names the remote"},
		{"generator's file", "generators: [g.yaml]", "names the remote"},
		{"folder of transformers", "resources: [a.yaml]\ntransformers: [sub]", "is a folder"},
		{"helm", "helmCharts: [{name: x, repo: URL}]", "helmCharts are not rendered"},
		{"old helm", "helmChartInflationGenerator: [{chartName: x}]", "helmCharts are not rendered"},
		{"exec plugin", "generators: [exec.yaml]", "external plugins disabled"},
		{"function", "transformers: [function.yaml]", "disabled"},
		{"above the source", "resources: [../../../etc]", "not there"},
		{"absolute file", "configMapGenerator: [{name: c, files: [k=/etc/passwd]}]", "not there"},
		{"link", "configMapGenerator: [{name: c, files: [link]}]", "link"},
		{"loop", "resources: [../web]", "cycle"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := folder(t, map[string]string{
				"web/kustomization.yaml":     strings.ReplaceAll(test.kustomization, "URL", url),
				"web/a.yaml":                 service,
				"web/t.yaml":                 transformer,
				"web/g.yaml":                 strings.ReplaceAll(generator, "k="+url, url),
				"web/exec.yaml":              "apiVersion: evil/v1\nkind: Run\nmetadata: {name: x}\n",
				"web/function.yaml":          "apiVersion: evil/v1\nkind: Run\nmetadata: {name: x, annotations: {config.kubernetes.io/function: \"exec: {path: /bin/true}\"}}\n",
				"web/sub/kustomization.yaml": "resources: [../t.yaml]\n",
			})
			if err := os.Symlink("/etc/passwd", filepath.Join(f.Root, "web", "link")); err != nil {
				t.Fatal(err)
			}
			objects, err := Kustomize(f, KustomizeOptions{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %d objects, %v, want %q", len(objects), err, test.want)
			}
		})
	}
}

func TestKustomizeInsideOfTheSource(t *testing.T) {
	f := folder(t, map[string]string{
		"web/kustomization.yml": "resources: [../base, real]\ncommonAnnotations: {url: https://example.com}\n" +
			"transformers:\n- |-\n  apiVersion: builtin\n  kind: NamespaceTransformer\n  metadata: {name: x, namespace: ns}\n" +
			"patches: [{patch: '{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"a\", \"labels\": {\"x\": \"y\"}}}'}]\n",
		"base/kustomization.yaml":          "resources: [a.yaml]\n",
		"base/a.yaml":                      service,
		"elsewhere/deep/Kustomization":     "resources: [../b.yaml]\n",
		"elsewhere/b.yaml":                 strings.ReplaceAll(service, "name: a", "name: b"),
		"elsewhere/deep/unused.yaml":       "x",
		"web/this is not referred to.yaml": "{{",
	})
	if err := os.Symlink("../elsewhere/deep", filepath.Join(f.Root, "web", "real")); err != nil {
		t.Fatal(err)
	}
	objects, err := Kustomize(f, KustomizeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 || objects[0].GetNamespace() != "ns" || objects[0].GetLabels()["x"] != "y" || objects[1].GetName() != "b" {
		t.Errorf("got %v", objects)
	}
	inputs, err := KustomizeInputs(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"base/a.yaml", "elsewhere/b.yaml"} {
		if inputs[want] == nil {
			t.Errorf("%s does not count as an input", want)
		}
	}
}

func helmChart(more ...string) map[string]string {
	files := map[string]string{"web/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n"}
	for i := 0; i < len(more); i += 2 {
		files["web/"+more[i]] = more[i+1]
	}
	return files
}

func TestHostileCharts(t *testing.T) {
	url := trap(t)
	t.Setenv("PINNACE_TEST_SECRET", "s3cret")
	configMap := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {v: VALUE}\n"
	quiet := map[string]string{
		"dns":           `{{ getHostByName "localhost" | quote }}`,
		"lookup":        `{{ lookup "v1" "Secret" "default" "x" | toJson | quote }}`,
		"file outside":  `{{ .Files.Get "../secret.txt" | quote }}`,
		"absolute file": `{{ .Files.Get "/etc/passwd" | quote }}`,
		"glob outside":  `{{ (.Files.Glob "../*").AsConfig | quote }}`,
	}
	for name, template := range quiet {
		t.Run(name, func(t *testing.T) {
			files := helmChart("templates/a.yaml", strings.ReplaceAll(configMap, "VALUE", template))
			files["secret.txt"] = "s3cret"
			objects, err := Template(readChart(t, files), Release{Name: "r"})
			if err != nil {
				t.Fatal(err)
			}
			if got := objects[0].Object["data"].(map[string]any)["v"]; got != "" && got != "{}" {
				t.Errorf("got %q", got)
			}
		})
	}
	loud := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"environment", helmChart("templates/a.yaml", `{{ env "PINNACE_TEST_SECRET" }}`), `function "env" not defined`},
		{"random", helmChart("templates/a.yaml", strings.ReplaceAll(configMap, "VALUE", "{{ randAlphaNum 20 }}")), "differs each time"},
		{"clock", helmChart("templates/a.yaml", strings.ReplaceAll(configMap, "VALUE", `{{ now | date "05.999999999" | quote }}`)), "differs each time"},
		{"endless", helmChart("templates/_h.tpl", `{{ define "x" }}{{ include "x" . }}{{ end }}`, "templates/a.yaml", `{{ include "x" . }}`), "nested reference"},
		{"hook", helmChart("templates/a.yaml", "apiVersion: v1\nkind: A\nmetadata: {name: a, annotations: {helm.sh/hook: pre-install}}\n"), "c/templates/a.yaml:1: v1 A a is a pre-install hook, which only runs in a release"},
	}
	for _, test := range loud {
		t.Run(test.name, func(t *testing.T) {
			objects, err := Template(readChart(t, test.files), Release{Name: "r"})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, %v, want %q", objects, err, test.want)
			}
		})
	}
	for name, schema := range map[string]string{
		"reference":  `{"properties": {"a": {"$ref": "` + url + `/a.json"}}}`,
		"file":       `{"$ref": "file:///etc/passwd"}`,
		"base":       `{"$id": "` + url + `/base.json", "properties": {"a": {"$ref": "a.json"}}}`,
		"metaschema": `{"$schema": "` + url + `/draft"}`,
	} {
		t.Run("schema "+name, func(t *testing.T) {
			files := helmChart("values.yaml", "a: b\n", "values.schema.json", schema, "templates/a.yaml", strings.ReplaceAll(configMap, "VALUE", "x"))
			if _, err := Template(readChart(t, files), Release{Name: "r"}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHooksAreLeftOut(t *testing.T) {
	hook := func(name, hook string) string {
		return "apiVersion: v1\nkind: A\nmetadata: {name: " + name + ", annotations: {helm.sh/hook: " + hook + "}}\n"
	}
	files := helmChart("templates/a.yaml", service, "templates/test.yaml", hook("t", "test"), "crds/a.yaml", strings.ReplaceAll(service, "name: a", "name: crd"))
	objects, err := Template(readChart(t, files), Release{Name: "r", SkipCRDs: true})
	if err != nil || len(objects) != 1 {
		t.Errorf("got %v, %v", objects, err)
	}
	files["web/templates/hook.yaml"] = hook("h", "post-install")
	objects, err = Template(readChart(t, files), Release{Name: "r", DisableHooks: true})
	if err != nil || len(objects) != 2 {
		t.Errorf("got %v, %v", objects, err)
	}
	objects, err = Try(readChart(t, files), Release{Name: "r"})
	if err != nil || len(objects) != 4 {
		t.Errorf("got %v, %v", objects, err)
	}
}

func TestSubcharts(t *testing.T) {
	files := helmChart(
		"Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ndependencies: [{name: sub, version: 1.x, condition: sub.enabled}]\n",
		"charts/sub/Chart.yaml", "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"charts/sub/templates/a.yaml", "apiVersion: v1\nkind: A\nmetadata: {name: {{ .Values.name }}}\n",
	)
	for want, values := range map[int]v1alpha1.Values{
		1: {"sub": map[string]any{"name": "x"}},
		0: {"sub": map[string]any{"enabled": false}},
	} {
		objects, err := Template(readChart(t, files), Release{Name: "r", Values: values})
		if err != nil || len(objects) != want {
			t.Errorf("got %v, %v, want %d", objects, err, want)
		}
	}
}

func TestHostileFolders(t *testing.T) {
	f := folder(t, map[string]string{"web/a.yaml": service})
	loop := filepath.Join(f.Root, "web", "loop")
	if err := os.Symlink(".", loop); err != nil {
		t.Fatal(err)
	}
	if _, err := Manifests(f, v1alpha1.Manifests{}); err == nil || !strings.Contains(err.Error(), "symbolic links") {
		t.Errorf("loop: %v", err)
	}
	if err := os.Remove(loop); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(f.Root, "web", "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Manifests(f, v1alpha1.Manifests{}); err == nil || !strings.Contains(err.Error(), "web/pipe: is no regular file") {
		t.Errorf("pipe: %v", err)
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../..", "/etc", "a/../../../x"} {
		if _, err := f.Below(name); err == nil {
			t.Errorf("%s: not refused", name)
		}
		if _, err := f.File(name); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	// Inside of the source, links work.
	if err := os.WriteFile(filepath.Join(f.Root, "b.yaml"), []byte(strings.ReplaceAll(service, "name: a", "name: b")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../b.yaml", filepath.Join(f.Root, "web", "b.yaml")); err != nil {
		t.Fatal(err)
	}
	objects, err := Manifests(f, v1alpha1.Manifests{})
	if err != nil || len(objects) != 2 {
		t.Errorf("link: %v %v", objects, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(service))
	f.Add([]byte("---\r\n# x\n--- # y\n{\"kind\": \"List\", \"items\": [null]}\n...\n"))
	f.Add([]byte("a: &a [*a]\n---\nb: &b {<<: *b}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := parse("f.yaml", data, true)
		if err != nil {
			return
		}
		stream, err := Objects(objects).Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := parse("f.yaml", stream, true)
		if err != nil || len(again) != len(objects) {
			t.Fatalf("%d objects, then %d: %v\n%s", len(objects), len(again), err, stream)
		}
	})
}
