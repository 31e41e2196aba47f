package bundler_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// postRendered is a chart with a kustomization that changes what it renders, and adds to it.
func postRendered() map[string]string {
	return with(chart("web"),
		"web/pinnace.yaml", bundleHead+"spec:\n  helm: {values: {replicas: 3}}\n  kustomize: {path: post}\n  overrides:\n  - {when: {clusterName: eu}, kustomize: {path: eu}}\n",
		"web/post/kustomization.yaml", "namePrefix: my-\nresources: [more.yaml]\npatches:\n- target: {kind: Deployment}\n  patch: |\n    - {op: replace, path: /spec/replicas, value: 7}\n",
		"web/post/more.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n",
		"web/eu/kustomization.yaml", "resources: [fleet-manifests.yaml]\nlabels: [{pairs: {region: eu}}]\n",
	)
}

func TestPostRendering(t *testing.T) {
	found := one(t, postRendered(), "web")
	if found.Method() != v1alpha1.MethodApply {
		t.Fatalf("got method %s", found.Method())
	}
	names := func(variant bundler.Variant) (out []string, built bundler.Built) {
		variant.HelmValues, variant.Namespace = found.Bundle.Spec.Helm.Values, "web"
		built, err := bundler.Build(t.Context(), found, variant)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range built.Objects {
			out = append(out, object.GetKind()+" "+object.GetName())
		}
		slices.Sort(out)
		return out, built
	}
	got, built := names(bundler.Variant{})
	if diff := cmp.Diff([]string{"ConfigMap my-more", "CustomResourceDefinition things.example.com", "Deployment my-web"}, got); diff != "" {
		t.Error(diff)
	}
	for _, object := range built.Objects {
		if object.GetKind() == "Deployment" {
			if replicas := fmt.Sprint(object.Object["spec"].(map[string]any)["replicas"]); replicas != "7" {
				t.Errorf("got %s replicas", replicas)
			}
		}
	}
	got, built = names(bundler.Variant{Kustomize: "eu"})
	if diff := cmp.Diff([]string{"CustomResourceDefinition things.example.com", "Deployment web"}, got); diff != "" {
		t.Error(diff)
	}
	for _, object := range built.Objects {
		if object.GetLabels()["region"] != "eu" {
			t.Errorf("%s has labels %v", object.GetName(), object.GetLabels())
		}
	}
}

// A file of the kustomization and one of the chart each make another key; a README beside them doesn't.
func TestKeyOfPostRendering(t *testing.T) {
	key := func(more ...string) string {
		t.Helper()
		found := one(t, with(postRendered(), more...), "web")
		key, err := bundler.Key(t.Context(), found, bundler.Variant{HelmValues: found.Bundle.Spec.Helm.Values})
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	base := key()
	for file, same := range map[string]bool{
		"web/post/more.yaml": false, "web/templates/other.yaml": false, "README.md": true,
	} {
		if got := key(file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: changed}\n"); (got == base) != same {
			t.Errorf("%s: the key is the same: %v, want %v", file, got == base, same)
		}
	}
}

// baseRepository serves a kustomization, tagged v1.
func baseRepository(t *testing.T) (*githttp.Server, string) {
	t.Helper()
	server, err := githttp.Start(t.TempDir(), githttp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if err := server.Create(t.Context(), "base"); err != nil {
		t.Fatal(err)
	}
	return server, commitBase(t, server, "1")
}

func commitBase(t *testing.T, server *githttp.Server, value string) string {
	t.Helper()
	tree := writeTree(t, map[string]string{
		"deploy/kustomization.yaml": "resources: [cm.yaml]\n",
		"deploy/cm.yaml":            fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {value: %q}\n", value),
	})
	commit, err := server.Commit(t.Context(), "base", "main", tree.Dir, "base")
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

func TestRemoteBases(t *testing.T) {
	server, commit := baseRepository(t)
	url := server.Repository("base")
	build := func(base string, allowed []string, known []v1alpha1.Resolution, cache string) (bundler.Built, string, []v1alpha1.Resolution, error) {
		t.Helper()
		options, names, err := bundler.Reach(bundler.Remotes{Source: source.Options{CacheDir: cache}, Known: known})
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"web/kustomization.yaml": "namePrefix: my-\nresources: ['" + base + "']\n"}
		found, err := bundler.Discover(t.Context(), writeTree(t, files), v1alpha1.Source{Name: "apps", Paths: []string{"web"}, RemoteBases: allowed}, options)
		if err != nil {
			t.Fatal(err)
		}
		key, err := bundler.Key(t.Context(), found[0], bundler.Variant{})
		if err != nil {
			return bundler.Built{}, key, nil, err
		}
		built, err := bundler.Build(t.Context(), found[0], bundler.Variant{})
		return built, key, names.Used(nil), err
	}
	cache := t.TempDir()
	_, _, _, err := build(url+"//deploy?ref=main", nil, nil, cache)
	wantError(t, err, "is remote; copy it into the repository", "remoteBases of the source")
	_, _, _, err = build(url+"//deploy?ref=main", []string{"https://github.com/acme/*"}, nil, cache)
	wantError(t, err, "is remote")
	_, _, _, err = build(url+"//deploy", []string{server.URL + "/*"}, nil, cache)
	wantError(t, err, "names no revision; add ?ref=")
	_, _, _, err = build(url+"//../..?ref=main", []string{server.URL + "/*"}, nil, cache)
	wantError(t, err, "leads out of its repository")

	for _, ref := range []string{"main", commit} {
		built, key, known, err := build(url+"//deploy?ref="+ref, []string{server.URL + "/*"}, nil, cache)
		if err != nil {
			t.Fatal(err)
		}
		if got := data(t, built, "my-base"); got["value"] != "1" {
			t.Errorf("got %v", got)
		}
		commitBase(t, server, "2")
		// The branch moved: what was resolved stays, on another machine too.
		again, sameKey, _, err := build(url+"//deploy?ref="+ref, []string{server.URL + "/*"}, known, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got := data(t, again, "my-base"); got["value"] != "1" || key != sameKey {
			t.Errorf("got %v and another key: %v", got, key != sameKey)
		}
		if _, err := server.Commit(t.Context(), "base", "main", filepath.Join(writeTree(t, map[string]string{"x/deploy/kustomization.yaml": "resources: [cm.yaml]\n", "x/deploy/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {value: \"1\"}\n"}).Dir, "x"), "back"); err != nil {
			t.Fatal(err)
		}
	}
}

const imagesOf = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers: [{name: i, image: ADDR/apps/init:1}]
      containers: [{name: c, image: "ADDR/apps/web:1"}]
      ephemeralContainers: [{name: e, image: ADDR/apps/debug}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: "ADDR/apps/web:1"}]}}
---
apiVersion: example.com/v1
kind: Machine
metadata: {name: m}
spec: {parts: [{image: "ADDR/apps/part:1"}, {image: "ADDR/apps/gone:1"}]}
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: p}
spec: {image: "ADDR/apps/prometheus@sha256:1111111111111111111111111111111111111111111111111111111111111111"}
`

func pushImage(t *testing.T, server *registrytest.Server, name, tag, content string) string {
	t.Helper()
	registry, err := oci.Open(server.Addr+"/apps", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	artifact := oci.Artifact{
		Config: oci.Blob{MediaType: "application/vnd.oci.image.config.v1+json", Data: []byte("{}")},
		Layers: []oci.Blob{{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Data: []byte(content)}},
	}
	desc, _, err := oci.Push(t.Context(), repo, artifact, tag)
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest.String()
}

func TestImagesWithDigests(t *testing.T) {
	server := registrytest.New(t)
	digests := map[string]string{}
	for _, image := range []string{"init:1", "web:1", "debug:latest", "part:1", "extra:1"} {
		name, tag, _ := strings.Cut(image, ":")
		digests[image] = pushImage(t, server, name, tag, image)
	}
	files := map[string]string{
		"web/all.yaml":     strings.ReplaceAll(imagesOf, "ADDR", server.Addr),
		"web/pinnace.yaml": bundleHead + "spec: {extraImages: [" + server.Addr + "/apps/extra:1], imageRules: [{apiVersion: example.com/*, kind: Machine, paths: ['.spec.parts[*].image']}]}\n",
	}
	remotes := bundler.Remotes{
		Source: source.Options{CacheDir: t.TempDir()},
		Images: &v1alpha1.ImageOptions{Digests: true, PlainHTTP: []string{server.Addr}},
	}
	built, known, err := buildWith(t, files, remotes)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, image := range built.Config.Images {
		got[strings.TrimPrefix(image.Reference, server.Addr+"/apps/")] = image.Digest + " " + strings.Join(image.From, ", ")
	}
	want := map[string]string{
		"init:1":  digests["init:1"] + " apps/v1 Deployment web: spec.template.spec.initContainers[0]",
		"web:1":   digests["web:1"] + " v1 Pod p: spec.containers[0], apps/v1 Deployment web: spec.template.spec.containers[0]",
		"debug":   digests["debug:latest"] + " apps/v1 Deployment web: spec.template.spec.ephemeralContainers[0]",
		"part:1":  digests["part:1"] + " example.com/v1 Machine m: spec.parts[*].image",
		"gone:1":  " example.com/v1 Machine m: spec.parts[*].image",
		"extra:1": digests["extra:1"] + " spec.extraImages",
		"prometheus@sha256:1111111111111111111111111111111111111111111111111111111111111111": "sha256:1111111111111111111111111111111111111111111111111111111111111111 monitoring.coreos.com/v1 Prometheus p: spec.image",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// A tag moves: the bundle stays as it is, until somebody asks to look again.
	moved := pushImage(t, server, "web", "1", "another")
	remotes.Known = known
	again, _, err := buildWith(t, files, remotes)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(built.Config, again.Config); diff != "" {
		t.Error(diff)
	}
	remotes.Refresh = true
	refreshed, _, err := buildWith(t, files, remotes)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(refreshed.Config.Images, func(i v1alpha1.Image) bool { return i.Digest == moved }) {
		t.Errorf("%s is not among %+v", moved, refreshed.Config.Images)
	}
}

// The artifact of a release is one for all clusters: it lists what any override makes of it.
func TestImagesOfOverrides(t *testing.T) {
	files := with(chart("web"), "web/pinnace.yaml", bundleHead+`spec:
  helm: {values: {image: "nginx:1"}}
  overrides:
  - {when: {clusterName: a}, values: {image: "nginx:2", side: "busybox:9"}}
  - {when: {clusterName: b}, values: {image: "nginx:${ .cluster.name }"}}
  - {when: {clusterName: c}, skip: true, values: {image: "never:1"}}
`)
	built, _, err := buildWith(t, files, bundler.Remotes{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, image := range built.Config.Images {
		got = append(got, image.Reference)
	}
	if diff := cmp.Diff([]string{"busybox:9", "nginx:1", "nginx:2"}, got); diff != "" {
		t.Error(diff)
	}
}

// A component is no bundle, whatever glob matches it.
func TestComponentsAreNoBundles(t *testing.T) {
	files := deepOverlays()
	found, err := discover(t, files, "apps/web/components/*", "apps/web/base")
	if err == nil || len(found) != 1 || found[0].Bundle.Metadata.Name != "base" || !strings.Contains(err.Error(), "matches no folder") {
		t.Errorf("got %d bundles, %v", len(found), err)
	}
	files["apps/web/components/hpa/pinnace.yaml"] = bundleHead
	_, err = bundler.Build(t.Context(), one(t, files, "apps/web/components/hpa"), bundler.Variant{})
	wantError(t, err, "is a component, which changes other kustomizations")
}
