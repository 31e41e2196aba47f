package bundler_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
)

// wantError compares the part of an error that names place, cause and act.
func wantError(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", wants)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %q", err, want)
		}
	}
}

func TestBadPaths(t *testing.T) {
	files := map[string]string{"bundles/README.md": "", "bundles/raw/a.yaml": deployment}
	tests := map[string]string{
		"bundels/*":   `source "apps": path "bundels/*" matches nothing; correct it`,
		"bundles":     `path "bundles" matches no folder with a pinnace.yaml`,
		"*.md":        `path "*.md" matches nothing`,
		"../*":        `path "../*" leads out of the source`,
		"/etc":        `path "/etc" leads out of the source`,
		"bundles/[*":  `path "bundles/[*" is no valid glob`,
		"bundles/*.*": `path "bundles/*.*" matches no folder`,
	}
	for path, want := range tests {
		t.Run(path, func(t *testing.T) {
			_, err := discover(t, files, path)
			wantError(t, err, want)
		})
	}
	_, err := discover(t, files)
	wantError(t, err, `source "apps": names no paths`)
}

func TestBadBundleFiles(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"misspelt field", "spec:\n  namepsace: x\n", `web/pinnace.yaml:5:3: unknown field "namepsace" in Bundle.spec; did you mean "namespace"?`},
		{"wrong kind", "---\nkind: Cluster\n", "web/pinnace.yaml"},
		{"two renderers", "spec:\n  helm: {}\n  manifests: {}\n", "web/pinnace.yaml:6:3: a bundle is one of helm, kustomize and manifests, or helm with kustomize after it, not helm and manifests"},
		{"a release and a kustomization", "spec:\n  helm: {install: release}\n  kustomize: {}\n", "web/pinnace.yaml:5:19: a release is made on the cluster of the chart itself"},
		{"version of a chart in the source", "spec:\n  helm: {version: 1.0.0}\n", "web/pinnace.yaml:5:19: is for charts of repositories"},
		{"repository", "spec:\n  helm: {repository: ftp://x, chart: y}\n", "is neither https:// nor oci://"},
		{"repository with a password", "spec:\n  helm: {repository: \"https://u:secret@x\", chart: y}\n", "holds credentials; put them into ~/.netrc"},
		{"range", "spec:\n  helm: {repository: \"https://x\", chart: y, version: '>>1'}\n", "is neither a version nor a range"},
		{"image rule", "spec:\n  imageRules: [{kind: A, paths: ['.a[']}]\n", "web/pinnace.yaml:5:26: image rule: path \".a[\""},
		{"image", "spec:\n  extraImages: [A B]\n", "\"A B\" is no image"},
		{"override mode", "spec:\n  overrideMode: last\n", `web/pinnace.yaml:5:17: Bundle.spec.overrideMode must be one of merge, first, got "last"`},
		{"drift mode", "spec:\n  drift:\n    mode: repair\n", `web/pinnace.yaml:6:11: Bundle.spec.drift.mode must be one of correct, warn, off, got "repair"`},
		{"drift pointer", "spec:\n  drift: {ignore: [{kind: A, jsonPointers: [spec.replicas]}]}\n", "web/pinnace.yaml:5:30: \"spec.replicas\" is no JSON pointer"},
		{"drift without pointer", "spec:\n  drift: {ignore: [{kind: A}]}\n", "names no field"},
		{"dependency on nothing", "spec:\n  dependsOn:\n    - {}\n", "web/pinnace.yaml:6:7: names nothing; set bundle or selector"},
		{"dependency twice", "spec: {dependsOn: [{bundle: a, selector: {}}]}\n", "sets bundle and selector"},
		{"dependency on itself", "spec: {dependsOn: [{bundle: web}]}\n", "depends on itself"},
		{"window", "spec:\n  windows: [{cron: 0 22 * *, duration: 6h}]\n", "web/pinnace.yaml:5:13: cron \"0 22 * *\""},
		{"health rule", "spec:\n  health: {checks: [{apiVersion: v1, kind: Boat, ready: self.status.}]}\n", "web/pinnace.yaml:5:57: health.checks for v1 Boat: ERROR:"},
		{"health rule that gives no bool", "spec:\n  health: {checks: [{apiVersion: v1, kind: Boat, ready: '\"yes\"'}]}\n", `gives string, not bool`},
		{"window's zone", "spec:\n  windows: [{cron: 0 22 * * *, duration: 6h, timeZone: Berlin}]\n", `timeZone "Berlin" is not known`},
		{"on failure", "spec:\n  onFailure: undo\n", `Bundle.spec.onFailure must be one of keep, rollback, got "undo"`},
		{"variables from nothing", "spec:\n  variablesFrom: [{}]\n", "web/pinnace.yaml:5:19: set exactly one of secretRef and configMapRef"},
		{"namespace", "spec: {namespace: A_b}\n", "no name for a namespace"},
		{"install", "spec: {helm: {install: template}}\n", `must be one of release, apply, got "template"`},
		{"chart", "spec: {helm: {chart: ./nowhere}}\n", "there is no web/nowhere/Chart.yaml"},
		{"chart outside", "spec: {helm: {chart: ../../other}}\n", `"../../other" leads out of the source`},
		{"release name", "spec: {helm: {releaseName: " + strings.Repeat("a", 54) + "}}\n", "more than 53 characters"},
		{"values file", "spec: {helm: {valuesFiles: [absent.yaml]}}\n", "web/pinnace.yaml:4:29: web/absent.yaml: no such file"},
		{"values file outside", "spec: {helm: {valuesFiles: [../../../etc/passwd]}}\n", "leads out of the source"},
		{"values from", "spec: {helm: {valuesFrom: [{}]}}\n", "set exactly one of secretKeyRef and configMapKeyRef"},
		{"values from when rendered", "spec: {helm: {install: apply, valuesFrom: [{secretKeyRef: {name: a}}]}}\n", "use install: release"},
		{"kustomization", "spec: {kustomize: {path: overlay}}\n", "there is no kustomization.yaml in web/overlay"},
		{"kustomization of an override", "spec: {kustomize: {path: .}, overrides: [{when: {}, kustomize: {path: eu}}]}\n", "there is no kustomization.yaml in web/eu"},
		{"glob", "spec: {manifests: {include: [\"[\"]}}\n", "is no valid glob"},
		{"variable", "spec: {variables: {a-b: c}}\n", `"a-b" is no name for a variable`},
		{"variables of a release", "spec: {helm: {}, variables: {A: c}}\n", "not in Helm releases"},
		{"values without a chart", "spec: {overrides: [{when: {}, values: {a: b}}]}\n", "this bundle is none; use variables"},
		{"overlay without a kustomization", "spec: {overrides: [{when: {}, kustomize: {path: eu}}]}\n", "this bundle is no kustomization"},
		{"health check", "spec: {health: {checks: [{apiVersion: v1, kind: A, ready: \"\"}]}}\n", "needs apiVersion, kind and ready"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := discover(t, map[string]string{"web/pinnace.yaml": bundleHead + test.spec, "web/a.yaml": deployment}, "web")
			wantError(t, err, `source "apps": `, test.want)
		})
	}
	_, err := discover(t, map[string]string{"My_Bundle/a.yaml": deployment}, "*")
	wantError(t, err, `"My_Bundle" is no name for a bundle`, "set metadata.name in My_Bundle/pinnace.yaml")
}

func TestAllFindingsAtOnce(t *testing.T) {
	_, err := discover(t, map[string]string{
		"a/pinnace.yaml": bundleHead + "spec: {overrideMode: x, drift: {mode: y}}\n",
		"b/pinnace.yaml": bundleHead + "spec: {overrideMode: z}\n",
	}, "*", "nothing/*")
	wantError(t, err, `got "x"`, `got "y"`, `got "z"`, "matches nothing")
}

func TestDependencyThatIsNotFetched(t *testing.T) {
	_, err := discover(t, with(chart("web"), "web/Chart.yaml",
		"apiVersion: v2\nname: c\nversion: 1.0.0\ndependencies: [{name: redis, version: 1.0.0, repository: https://x}]\n"), "web")
	wantError(t, err, `bundle "web": web/Chart.yaml: the dependency "redis" is not in charts/`, "run: helm dependency build web")
}

func TestBundlesThatDoNotBuild(t *testing.T) {
	apply := bundleHead + "spec: {helm: {install: apply}}\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no kind", map[string]string{"web/a.yaml": deployment + "---\n# comment\n\nmetadata: {name: x}\n"}, `bundle "web": web/a.yaml:12: the object has no kind`},
		{"no version", map[string]string{"web/a.yaml": "kind: A\n"}, "web/a.yaml:1: the A has no apiVersion"},
		{"no name", map[string]string{"web/a.yaml": "\n\napiVersion: v1\nkind: A\n"}, "web/a.yaml:3: the A has no metadata.name"},
		{"a name that YAML takes for true", map[string]string{"web/a.yaml": "apiVersion: v1\nkind: A\nmetadata: {name: y}\n"}, "web/a.yaml:1: the A's metadata.name is true, which is no text; quote it"},
		{"no name in a list", map[string]string{"web/a.yaml": "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}]\n"}, "web/a.yaml:1: the A has no metadata.name (item 0 of the List)"},
		{"generated name", map[string]string{"web/a.yaml": "apiVersion: v1\nkind: A\nmetadata: {generateName: a-}\n"}, "has generateName"},
		{"bad yaml", map[string]string{"web/a.yaml": deployment + "---\napiVersion: v1\nkind: [\n"}, "web/a.yaml: yaml: line 11"},
		{"duplicate key", map[string]string{"web/a.yaml": "apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: a}\n"}, `key "kind" already set in map`},
		{"a string", map[string]string{"web/a.yaml": "hello\n"}, "web/a.yaml: line 1: is no object"},
		{"duplicate object", map[string]string{"web/a.yaml": deployment, "web/b.yaml": "---\n" + deployment}, "web/b.yaml:2: apps/v1 Deployment web is in web/a.yaml:1 already"},
		{"nothing included", map[string]string{"web/a.yaml": deployment, "web/pinnace.yaml": bundleHead + "spec: {manifests: {include: [b/*]}}\n"}, "web: no manifest matches b/*"},
		{"lfs pointer", map[string]string{"web/a.yaml": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}, "web/a.yaml: is a Git LFS pointer"},
		{"missing resource", map[string]string{"web/kustomization.yaml": "resources: [absent.yaml]\n"}, `web/kustomization.yaml: names "absent.yaml", which is not there`},
		{"misspelt kustomization", map[string]string{"web/kustomization.yaml": "resorces: [a.yaml]\n"}, `web/kustomization.yaml: invalid Kustomization: json: unknown field "resorces"`},
		{"chart that does not render", with(chart("web"), "web/pinnace.yaml", apply, "web/templates/bad.yaml", "a: b\nc: {{ .Values.x.y.z }}\n"), "web-chart/templates/bad.yaml:2:13"},
		{"release that does not render", with(chart("web"), "web/templates/bad.yaml", "a: {{ required \"set x\" .Values.x }}\n"), "(web-chart/templates/bad.yaml:1:6): set x"},
		{"template that does not parse", with(chart("web"), "web/templates/bad.yaml", "a: b\n{{ if }}\n"), "(web-chart/templates/bad.yaml:2)"},
		{"rendered manifest without kind", with(chart("web"), "web/templates/bad.yaml", "{{ if true }}\na: b\n{{ end }}\n"), "web-chart/templates/bad.yaml:2: the object has no kind"},
		{"library", with(chart("web"), "web/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ntype: library\n"), "is a library chart"},
		{"old cluster", with(chart("web"), "web/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\nkubeVersion: <1.20\n"), "wants Kubernetes <1.20"},
		{"bad chart", with(chart("web"), "web/Chart.yaml", "apiVersion: v2\nname: c\n"), "web/Chart.yaml: validation: chart.metadata.version is required"},
		{"values against the schema", with(chart("web"), "web/values.schema.json", `{"properties":{"replicas":{"type":"string"}}}`), "replicas"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := bundler.Build(t.Context(), one(t, test.files, "web"), bundler.Variant{})
			wantError(t, err, `source "apps": bundle "web": `, test.want)
		})
	}
}

func TestMissingValuesOfTheClusterDoNotFailThePublish(t *testing.T) {
	files := with(chart("web"),
		"web/pinnace.yaml", bundleHead+"spec: {helm: {valuesFrom: [{secretKeyRef: {name: s}}]}}\n",
		"web/templates/secret.yaml", "a: {{ required \"set x\" .Values.x }}\n")
	build(t, one(t, files, "web"), bundler.Variant{})
}

func TestSymlinksOutOfTheSource(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(outside, []byte(deployment), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string]string{
		"manifests": {"web/a.yaml": deployment},
		"kustomize": {"web/kustomization.yaml": "resources: [link.yaml]\n"},
		"chart":     chart("web"),
	} {
		t.Run(name, func(t *testing.T) {
			tree := writeTree(t, files)
			if err := os.Symlink(outside, filepath.Join(tree.Dir, "web", "link.yaml")); err != nil {
				t.Fatal(err)
			}
			found, err := bundler.Discover(t.Context(), tree, v1alpha1.Source{Name: "apps", Paths: []string{"web"}}, bundler.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = bundler.Build(t.Context(), found[0], bundler.Variant{})
			wantError(t, err, "web/link.yaml", "a symbolic link must stay inside of the source")
			_, err = bundler.Key(t.Context(), found[0], bundler.Variant{})
			wantError(t, err, "web/link.yaml")
		})
	}
}
