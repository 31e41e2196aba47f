package bundler_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
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
)

// shapes of repositories as they are found, each written for the purpose. The number is how many bundles there are.
var shapes = []struct {
	name    string
	files   func() map[string]string
	paths   []string
	bundles int
}{
	{"mono-repository with 200 bundles", monoRepository, []string{"teams/*/*"}, 200},
	{"deep overlays", deepOverlays, []string{"apps/web/overlays/*/*/*"}, 8},
	{"custom resources and their definitions", customResources, []string{"*"}, 2},
	{"dashboards in one huge ConfigMap", hugeConfigMap, []string{"dashboards"}, 1},
	{"names that are not ASCII", unicodeNames, []string{"apps/*"}, 2},
	{"Windows line ends", windowsLineEnds, []string{"*"}, 3},
	{"manifests in folders of folders, lists and streams", nested, []string{"*"}, 1},
}

func monoRepository() map[string]string {
	files := map[string]string{"README.md": "# Everything\n", "teams/OWNERS": "all\n"}
	for i := range 200 {
		dir := fmt.Sprintf("teams/team-%02d/app-%03d", i/10, i)
		switch i % 4 {
		case 0:
			files[dir+"/kustomization.yaml"] = "resources: [deployment.yaml]\nnameSuffix: -k\n"
			files[dir+"/deployment.yaml"] = deployment
		case 1:
			for name, content := range chart(dir) {
				files[name] = content
			}
			delete(files, dir+"/crds/crd.yaml")
		case 2:
			files[dir+"/fleet.yaml"] = "defaultNamespace: apps\ntargetCustomizations: [{clusterSelector: {}, yaml: {overlays: [big]}}]\n"
			files[dir+"/web.yaml"] = deployment
			files[dir+"/overlays/big/web_patch.yaml"] = "spec: {replicas: 9}\n"
		default:
			files[dir+"/web.yaml"] = deployment
		}
	}
	return files
}

// deepOverlays has a base, five layers of overlays over it, and components.
func deepOverlays() map[string]string {
	files := map[string]string{
		"apps/web/base/kustomization.yaml":           "resources: [deployment.yaml]\n",
		"apps/web/base/deployment.yaml":              deployment,
		"apps/web/components/hpa/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [hpa.yaml]\n",
		"apps/web/components/hpa/hpa.yaml":           "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web}\n",
		"apps/web/layers/1/kustomization.yaml":       "resources: [../../base]\ncommonAnnotations: {layer: \"1\"}\n",
		"apps/web/layers/2/kustomization.yaml":       "resources: [../1]\nlabels: [{pairs: {layer: two}}]\n",
		"apps/web/layers/3/kustomization.yaml":       "resources: [../2]\nconfigMapGenerator: [{name: settings, literals: [a=b]}]\n",
		"apps/web/layers/4/kustomization.yaml":       "resources: [../3]\nimages: [{name: nginx, newTag: \"2\"}]\n",
		"apps/web/layers/5/kustomization.yaml":       "resources: [../4]\ncomponents: [../../components/hpa]\n",
	}
	for _, region := range []string{"eu", "us"} {
		for _, stage := range []string{"test", "prod"} {
			for _, size := range []string{"small", "large"} {
				name := region + "-" + stage + "-" + size
				dir := fmt.Sprintf("apps/web/overlays/%s/%s/%s", region, stage, size)
				files[dir+"/kustomization.yaml"] = "resources: [../../../../layers/5]\nnamespace: " + name + "\n"
				files[dir+"/pinnace.yaml"] = "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web-" + name + "}\n"
			}
		}
	}
	return files
}

func customResources() map[string]string {
	return map[string]string{
		"crds/boats.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: boats.example.com}\nspec: {group: example.com}\n",
		"boats/a.yaml":    "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{image: crew:1}]}}}\n",
		"boats/all.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: oars.example.com}\n---\n" +
			"apiVersion: example.com/v1\nkind: Oar\nmetadata: {name: left}\n",
		"boats/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: boats}\nspec: {dependsOn: [{bundle: crds}]}\n",
	}
}

func hugeConfigMap() map[string]string {
	// Text that hardly compresses, as dashboards don't.
	random := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 900<<10 {
		fmt.Fprintf(&text, "    {\"id\": %d, \"title\": \"%x\"}\n", text.Len(), random.Uint64())
	}
	return map[string]string{
		"dashboards/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dashboards}\ndata:\n  all.json: |\n" + text.String(),
	}
}

func unicodeNames() map[string]string {
	return map[string]string{
		"apps/grüße/pinnace.yaml":   "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: gruesse}\n",
		"apps/grüße/straße ☃.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {\"naïve\": \"日本語 \\U0001F6A2\"}\n",
		"apps/日本/pinnace.yaml":      "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: nippon}\n",
		"apps/日本/設定/設定.yaml":        "\ufeffapiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
		"apps/日本/pinnace-notes.txt": "no manifest\n",
	}
}

func windowsLineEnds() map[string]string {
	files := map[string]string{
		"raw/a.yaml":              "\ufeff" + deployment + "---\n" + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  text: |\n    one\n    two\n",
		"raw/pinnace.yaml":        "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata:\n  name: raw\n",
		"kust/kustomization.yaml": "resources:\n- a.yaml\n",
		"kust/a.yaml":             deployment,
		"fleet/fleet.yaml":        "name: fleet\nhelm:\n  values:\n    replicas: 2\n    text: |\n      a\n      b\n",
	}
	for name, content := range chart("fleet") {
		files[name] = content
	}
	for name, content := range files {
		files[name] = strings.ReplaceAll(content, "\n", "\r\n")
	}
	return files
}

func nested() map[string]string {
	return map[string]string{
		"all/1/2/3/4/5/a.yaml": deployment,
		"all/list.json":        `{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMapList", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}]}]}`,
		"all/stream.yml":       "# nothing\n---\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: last}\n...\n---\n",
		"all/.hidden/a.yaml":   "no: manifest\n",
		"all/notes.txt":        "no manifest\n",
		"all/top.yaml":         "apiVersion: v1\nkind: Namespace\nmetadata: {name: top}\n",
	}
}

// writeShuffled lays the files in an order and with modes of its own.
func writeShuffled(t *testing.T, files map[string]string, seed uint64) source.Tree {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, seed))
	names := slices.Sorted(maps.Keys(files))
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	dir := t.TempDir()
	for _, name := range names {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(files[name]), []os.FileMode{0o600, 0o644, 0o777}[random.IntN(3)]); err != nil {
			t.Fatal(err)
		}
		then := time.Unix(random.Int64N(1<<31), 0)
		if err := os.Chtimes(full, then, then); err != nil {
			t.Fatal(err)
		}
	}
	return source.Tree{Dir: dir, Commit: fmt.Sprintf("%040x", seed), Repository: "https://git.example/all"}
}

// buildShape builds bundles, and returns their artifacts' digests and keys; of many only some when wanted is not nil.
func buildShape(t *testing.T, files map[string]string, paths []string, seed uint64, wanted map[string]string) map[string]string {
	t.Helper()
	tree := writeShuffled(t, files, seed)
	found, err := bundler.Discover(t.Context(), tree, v1alpha1.Source{Name: "apps", Paths: paths}, bundler.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for i, bundle := range found {
		name := bundle.Bundle.Metadata.Name
		if wanted != nil && len(found) > fewBundles && i%sampleStep != 0 {
			out[name] = wanted[name]
			continue
		}
		out[name] = buildAll(t.Context(), t, bundle)
	}
	return out
}

const (
	// fewBundles are all built again, of more only each that is a multiple of sampleStep: it meets every kind.
	fewBundles = 12
	sampleStep = 17
)

func buildAll(ctx context.Context, t *testing.T, found bundler.Found) string {
	t.Helper()
	variant := bundler.Variant{}
	if helm := found.Bundle.Spec.Helm; helm != nil {
		variant.HelmValues = helm.Values
	}
	built, err := bundler.Build(ctx, found, variant)
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundler.Key(ctx, found, variant)
	if err != nil {
		t.Fatal(err)
	}
	return built.Artifact().Descriptor().Digest.String() + " " + key
}

// The order in which files were written, their modes and times, the umask, the time zone and the commit change nothing.
func TestShapesOfRepositories(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			files := shape.files()
			want := buildShape(t, files, shape.paths, 1, nil)
			if len(want) != shape.bundles {
				t.Errorf("got %d bundles, want %d", len(want), shape.bundles)
			}
			defer syscall.Umask(syscall.Umask(0o077))
			defer func(before *time.Location) { time.Local = before }(time.Local)
			time.Local = time.FixedZone("far", 13*3600)
			if got := buildShape(t, files, shape.paths, 2, want); !cmp.Equal(want, got) {
				t.Error(cmp.Diff(want, got))
			}
		})
	}
}

// What Windows' line ends make is what the same files make without.
func TestWindowsLineEndsChangeNothing(t *testing.T) {
	windows := windowsLineEnds()
	unix := map[string]string{}
	for name, content := range windows {
		unix[name] = strings.ReplaceAll(content, "\r\n", "\n")
	}
	layer := func(files map[string]string, name string) string {
		t.Helper()
		found, err := bundler.Discover(t.Context(), writeTree(t, files), v1alpha1.Source{Name: "apps", Paths: []string{name}}, bundler.Options{})
		if err != nil {
			t.Fatal(err)
		}
		built, err := bundler.Build(t.Context(), found[0], bundler.Variant{})
		if err != nil {
			t.Fatal(err)
		}
		return string(built.Layer)
	}
	for _, name := range []string{"raw", "kust"} {
		if layer(windows, name) != layer(unix, name) {
			t.Errorf("%s: other bytes", name)
		}
	}
}
