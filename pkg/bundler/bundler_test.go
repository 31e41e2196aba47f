package bundler_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

const bundleHead = "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web}\n"

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers: [{name: init, image: busybox:1}]
      containers: [{name: web, image: nginx:1}, {name: side, image: busybox:1}]
`

// chart is a chart's files below a folder.
func chart(dir string) map[string]string {
	return map[string]string{
		dir + "/Chart.yaml":  "apiVersion: v2\nname: web-chart\nversion: 1.0.0\nkubeVersion: '>=1.25.0-0'\n",
		dir + "/values.yaml": "image: nginx\nreplicas: 1\n",
		dir + "/templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
spec:
  replicas: {{ .Values.replicas }}
  template: {spec: {containers: [{name: web, image: {{ .Values.image | quote }}}{{ with .Values.side }}, {name: side, image: {{ . | quote }}}{{ end }}]}}
`,
		dir + "/templates/NOTES.txt":    "Thank you for installing {{ .Chart.Name }}.\n",
		dir + "/templates/_helpers.tpl": "{{ define \"x\" }}not: used{{ end }}\n",
		dir + "/crds/crd.yaml":          "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.com}\n",
	}
}

func with(files map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

func writeTree(t *testing.T, files map[string]string) source.Tree {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return source.Tree{Dir: dir, Commit: "c0ffee", Repository: "https://git.example/web"}
}

func discover(t *testing.T, files map[string]string, paths ...string) ([]bundler.Found, error) {
	t.Helper()
	return bundler.Discover(t.Context(), writeTree(t, files), v1alpha1.Source{Name: "apps", Paths: paths}, bundler.Options{})
}

func one(t *testing.T, files map[string]string, path string) bundler.Found {
	t.Helper()
	found, err := discover(t, files, path)
	if err != nil || len(found) != 1 {
		t.Fatalf("found %d: %v", len(found), err)
	}
	return found[0]
}

func build(t *testing.T, found bundler.Found, variant bundler.Variant) bundler.Built {
	t.Helper()
	built, err := bundler.Build(t.Context(), found, variant)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func stream(t *testing.T, built bundler.Built) string {
	t.Helper()
	files, err := archive.Unpack(bytes.NewReader(built.Layer), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return string(files[bundler.ManifestsFile])
}

func TestDiscover(t *testing.T) {
	files := with(chart("bundles/chart"),
		"pinnace.yaml", "apiVersion: pinnace.dev/v1alpha1\nkind: Fleet\n",
		"bundles/README.md", "",
		"bundles/raw/a.yaml", deployment,
		"bundles/raw/sub/b.yaml", deployment,
		"bundles/kust/kustomization.yaml", "resources: [a.yaml]\n",
		"bundles/kust/a.yaml", deployment,
		"bundles/described/pinnace.yaml", bundleHead+"spec: {targets: [{clusterName: x}], manifests: {include: [m/*]}}\n",
		"bundles/described/m/a.yaml", deployment,
		"bundles/empty/README.md", "",
		"bundles/.hidden/a.yaml", deployment,
	)
	tree := writeTree(t, files)
	rule := []v1alpha1.TargetRule{{ClusterName: "all"}}
	for _, paths := range [][]string{{"bundles/*"}, {"./bundles/*/"}, {"**"}, {"bundles/{raw,chart}", "bundles/*"}} {
		found, err := bundler.Discover(t.Context(), tree, v1alpha1.Source{Name: "apps", Paths: paths, Targets: rule}, bundler.Options{})
		if err != nil {
			t.Errorf("%v: %v", paths, err)
		}
		var got []string
		for _, f := range found {
			method := string(f.Method())
			got = append(got, strings.Join([]string{f.Source.Path, f.Bundle.Metadata.Name, method, f.Bundle.Spec.Targets[0].ClusterName}, " "))
			if f.Commit != "c0ffee" || f.Source.Repository != tree.Repository || f.Dir != filepath.Join(tree.Dir, f.Source.Path) {
				t.Errorf("%+v", f)
			}
		}
		want := []string{
			"bundles/chart chart release all", "bundles/described web apply x",
			"bundles/kust kust apply all", "bundles/raw raw apply all",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got)\n%s", paths, diff)
		}
	}
	if found := one(t, map[string]string{"a.yaml": deployment}, "."); found.Bundle.Metadata.Name != "apps" {
		t.Errorf("a bundle at the root: %+v", found.Bundle.Metadata)
	}
}

func TestBuildManifests(t *testing.T) {
	built := build(t, one(t, map[string]string{
		"web/b.yaml": "\ufeff# Windows\r\n---\r\n" + strings.ReplaceAll(deployment, "\n", "\r\n") + "---\r\n# nothing\r\n---\r\n",
		"web/a.json": "{\n\t\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\t" +
			`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"ns"}},{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"größe"},"data":{"on":"yes"}}]}`,
		"web/ignored.txt": "x", "web/.hidden.yaml": "x",
	}, "web"), bundler.Variant{})
	want := `---
apiVersion: v1
kind: Namespace
metadata:
  name: ns
---
apiVersion: v1
data:
  "on": "yes"
kind: ConfigMap
metadata:
  name: größe
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      containers:
      - image: nginx:1
        name: web
      - image: busybox:1
        name: side
      initContainers:
      - image: busybox:1
        name: init
`
	if diff := cmp.Diff(want, stream(t, built)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	pod := "apps/v1 Deployment web: spec.template.spec."
	wantConfig := v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "BundleConfig"},
		Name:     "web", Method: "apply", Objects: 3,
		Source: v1alpha1.SourceIdentity{Name: "apps", Repository: "https://git.example/web", Path: "web"},
		Images: []v1alpha1.Image{
			{Reference: "busybox:1", From: []string{pod + "containers[1]", pod + "initContainers[0]"}},
			{Reference: "nginx:1", From: []string{pod + "containers[0]"}},
		},
	}
	if diff := cmp.Diff(wantConfig, built.Config); diff != "" {
		t.Errorf("config (-want +got)\n%s", diff)
	}
	if bytes.Contains(built.Artifact().Config.Data, []byte("c0ffee")) {
		t.Error("the commit stands in the artifact")
	}
}

func TestBuildKustomize(t *testing.T) {
	files := map[string]string{
		"shop/pinnace.yaml":                   bundleHead + "spec: {kustomize: {path: base}, overrides: [{when: {}, kustomize: {path: overlays/eu}}]}\n",
		"shop/base/kustomization.yaml":        "resources: [web.yaml, ../../common/extra.yaml]\nconfigMapGenerator: [{name: c, literals: [URL=https://example.com]}]\n",
		"shop/base/web.yaml":                  deployment,
		"shop/overlays/eu/kustomization.yaml": "resources: [../../base]\nnamePrefix: eu-\nimages: [{name: nginx, newTag: \"2\"}]\n",
		"common/extra.yaml":                   "apiVersion: v1\nkind: Service\nmetadata: {name: extra}\n",
	}
	found := one(t, files, "shop")
	base, eu := build(t, found, bundler.Variant{}), build(t, found, bundler.Variant{Kustomize: "overlays/eu"})
	if text := stream(t, base); !strings.Contains(text, "name: web\n") || !strings.Contains(text, "nginx:1") || !strings.Contains(text, "name: extra") {
		t.Error(text)
	}
	if text := stream(t, eu); !strings.Contains(text, "name: eu-web\n") || !strings.Contains(text, "nginx:2") || !strings.Contains(text, "name: eu-extra") {
		t.Error(text)
	}
}

func TestBuildRelease(t *testing.T) {
	files := with(chart("web"),
		"web/pinnace.yaml", bundleHead+"spec: {helm: {valuesFiles: [prod.yaml], values: {side: \"${ .cluster.name }\"}}}\n",
		"web/prod.yaml", "image: overwritten\nside: overwritten\nreplicas: 3\n",
		"web/.helmignore", "secret/\n*.bak\n", "web/secret/key", "x", "web/a.bak", "x",
	)
	found := one(t, files, "web")
	if diff := cmp.Diff(v1alpha1.Values{"image": "overwritten", "side": "${ .cluster.name }", "replicas": int64(3)}, found.Bundle.Spec.Helm.Values); diff != "" {
		t.Errorf("values (-want +got)\n%s", diff)
	}
	built := build(t, found, bundler.Variant{HelmValues: v1alpha1.Values{"image": "other"}, Namespace: "ns"})
	packed, err := archive.Unpack(bytes.NewReader(built.Layer), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range packed {
		names = append(names, strings.TrimPrefix(name, "web-chart/"))
	}
	slices.Sort(names)
	want := []string{
		".helmignore", "Chart.yaml", "crds/crd.yaml", "prod.yaml",
		"templates/NOTES.txt", "templates/_helpers.tpl", "templates/deployment.yaml", "values.yaml",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got)\n%s", diff)
	}
	if built.Config.Method != v1alpha1.MethodRelease || built.LayerMediaType != v1alpha1.MediaTypeHelmChart || len(built.Objects) != 2 {
		t.Errorf("%+v, %d objects", built.Config, len(built.Objects))
	}
	// The bundle's own, without the one that is only known per cluster.
	if len(built.Config.Images) != 1 || built.Config.Images[0].Reference != "overwritten" {
		t.Errorf("images: %+v", built.Config.Images)
	}
	other := build(t, found, bundler.Variant{HelmValues: v1alpha1.Values{"image": "another"}})
	if built.Artifact().Descriptor().Digest != other.Artifact().Descriptor().Digest {
		t.Error("another cluster's values make another artifact")
	}
}

func TestBuildTemplate(t *testing.T) {
	files := with(chart("bundles/web/chart"),
		"bundles/web/pinnace.yaml", bundleHead+"spec: {helm: {chart: chart, install: apply, releaseName: rel}}\n")
	found := one(t, files, "bundles/*")
	built := build(t, found, bundler.Variant{HelmValues: v1alpha1.Values{"replicas": int64(2)}, Namespace: "ns"})
	want := `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.example.com
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: rel
  namespace: ns
spec:
  replicas: 2
  template:
    spec:
      containers:
      - image: nginx
        name: web
`
	if diff := cmp.Diff(want, stream(t, built)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSameContentSameDigest(t *testing.T) {
	files := with(chart("release"),
		"raw/a.yaml", deployment, "raw/b/c.yaml", strings.ReplaceAll(deployment, "name: web", "name: other"),
		"kust/kustomization.yaml", "resources: [a.yaml]\n", "kust/a.yaml", deployment,
	)
	for name, content := range chart("apply/chart") {
		files[name] = content
	}
	files["apply/pinnace.yaml"] = bundleHead + "spec: {helm: {chart: chart, install: apply}}\n"
	digests := func(mask int, zone, unrelated string) map[string]string {
		defer syscall.Umask(syscall.Umask(mask))
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		defer func(before *time.Location) { time.Local = before }(time.Local)
		time.Local = location
		// Map order makes another directory order each time.
		tree := writeTree(t, with(files, "unrelated.txt", unrelated))
		tree.Commit = unrelated
		found, err := bundler.Discover(t.Context(), tree, v1alpha1.Source{Name: "apps", Paths: []string{"*"}}, bundler.Options{})
		if err != nil || len(found) != 4 {
			t.Fatalf("%d %v", len(found), err)
		}
		out := map[string]string{}
		for _, f := range found {
			out[f.Source.Path] = string(build(t, f, bundler.Variant{}).Artifact().Descriptor().Digest)
			key, err := bundler.Key(t.Context(), f, bundler.Variant{})
			if err != nil {
				t.Fatal(err)
			}
			out["key "+f.Source.Path] = key
		}
		return out
	}
	if diff := cmp.Diff(digests(0o022, "UTC", "one"), digests(0o077, "Asia/Kathmandu", "two")); diff != "" {
		t.Error(diff)
	}
}

func TestKey(t *testing.T) {
	files := map[string]string{
		"shop/kustomization.yaml": "resources: [web.yaml, ../base]\nsecretGenerator: [{name: s, files: [k=../keys/k.txt]}]\n",
		"shop/web.yaml":           deployment,
		"base/kustomization.yaml": "resources: [../deeper/a.yaml]\n",
		"deeper/a.yaml":           "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
		"keys/k.txt":              "k",
		"unrelated/x.yaml":        "x",
	}
	key := func(files map[string]string, variant bundler.Variant) string {
		t.Helper()
		got, err := bundler.Key(t.Context(), one(t, files, "shop"), variant)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := key(files, bundler.Variant{})
	for name := range files {
		changed := key(with(map[string]string{}, append(pairs(files), name, files[name]+"\n# changed\n")...), bundler.Variant{})
		if (changed == before) != (name == "unrelated/x.yaml") {
			t.Errorf("%s changed: same key %v", name, changed == before)
		}
	}
	if key(files, bundler.Variant{HelmValues: v1alpha1.Values{"a": "b"}, Namespace: "ns"}) != before {
		t.Error("values count where there is no chart")
	}
	if key(with(map[string]string{}, append(pairs(files), "shop/overlay/kustomization.yaml", "resources: [..]\n")...), bundler.Variant{Kustomize: "overlay"}) == before {
		t.Error("the overlay does not count")
	}
}

func pairs(files map[string]string) []string {
	var out []string
	for name, content := range files {
		out = append(out, name, content)
	}
	return out
}
