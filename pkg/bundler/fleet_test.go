package bundler_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/fleetyaml"
	"pinnace.dev/pinnace/pkg/bundler/render"
)

// A folder with a fleet.yaml is the bundle that its converted form would be.
func TestFleetYAML(t *testing.T) {
	const fleetYAML = `namespace: shop
helm:
  releaseName: web
  values: {replicas: 2, image: "nginx:${ .ClusterLabels.tag }"}
targetCustomizations:
  - name: eu
    clusterSelector: {matchLabels: {region: eu}}
    helm: {values: {replicas: 3}}
`
	theirs := one(t, with(chart("web"), "web/fleet.yaml", fleetYAML), "web")
	converted, err := fleetyaml.Convert("web/fleet.yaml", []byte(fleetYAML), render.Folder{Root: theirs.Root, Path: "web"})
	if err != nil {
		t.Fatal(err)
	}
	native, err := converted.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	ours := one(t, with(chart("web"), "web/pinnace.yaml", string(native)), "web")
	if diff := cmp.Diff(ours.Bundle, theirs.Bundle); diff != "" {
		t.Errorf("pinnace.yaml -, fleet.yaml +:\n%s", diff)
	}
	if name := theirs.Bundle.Metadata.Name; name != "web" {
		t.Errorf("name %q, want web", name)
	}
	want, got := build(t, ours, bundler.Variant{}), build(t, theirs, bundler.Variant{})
	if !bytes.Equal(want.Layer, got.Layer) {
		t.Error("the file that describes the bundle is in the chart")
	}
	if key(t, ours) != key(t, theirs) {
		t.Error("the file that describes the bundle counts as an input")
	}
}

func key(t *testing.T, found bundler.Found) string {
	t.Helper()
	key, err := bundler.Key(t.Context(), found, bundler.Variant{})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestFleetYAMLBesideManifests(t *testing.T) {
	for _, name := range []string{"fleet.yaml", "fleet.yml"} {
		found := one(t, map[string]string{"web/" + name: "defaultNamespace: shop\n", "web/a.yaml": deployment}, "*")
		if got := build(t, found, bundler.Variant{}); len(got.Objects) != 1 {
			t.Errorf("%s: %d objects, want the Deployment", name, len(got.Objects))
		}
		if found.Bundle.Spec.Namespace != "shop" || found.Bundle.Spec.Drift.Mode != v1alpha1.DriftWarn {
			t.Errorf("%s: %+v", name, found.Bundle.Spec)
		}
	}
}

func TestFleetIgnore(t *testing.T) {
	found := one(t, map[string]string{
		"web/fleet.yaml": "", "web/.fleetignore": "docs/*\ndrafts\n*-values.yaml\n", "web/a.yaml": deployment,
		"web/docs/a.yaml": "a", "web/sub/drafts/b.yaml": "b", "web/x-values.yaml": "c", "web/sub/y-values.yaml": "d", "web/drafts/c.yaml": "e",
	}, "web")
	if got := build(t, found, bundler.Variant{}); len(got.Objects) != 1 {
		t.Errorf("%d objects, want the Deployment", len(got.Objects))
	}
}

func TestOverlays(t *testing.T) {
	files := map[string]string{
		"web/fleet.yaml":                     "targetCustomizations: [{clusterName: a, yaml: {overlays: [scale]}}, {clusterName: b, yaml: {overlays: [scale, none]}}]\n",
		"web/a.yaml":                         deployment,
		"web/overlays/scale/a_patch.yaml":    "spec: {replicas: 3}\n",
		"web/overlays/none/config.yaml":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\n",
		"web/overlays/elsewhere/not.a.patch": "",
	}
	found := one(t, files, "web")
	keys := map[string]bool{}
	for _, test := range []struct {
		overlays []string
		objects  int
		replicas int64
	}{{nil, 1, 0}, {[]string{"scale"}, 1, 3}, {[]string{"scale", "none"}, 2, 3}} {
		variant := bundler.Variant{Overlays: test.overlays}
		got := build(t, found, variant)
		object := got.Objects[0]
		for _, one := range got.Objects {
			if one.GetKind() == "Deployment" {
				object = one
			}
		}
		replicas, _, err := unstructured.NestedInt64(object.Object, "spec", "replicas")
		if err != nil || len(got.Objects) != test.objects || replicas != test.replicas {
			t.Errorf("%v: %d objects, %d replicas, %v", test.overlays, len(got.Objects), replicas, err)
		}
		key, err := bundler.Key(t.Context(), found, variant)
		if err != nil {
			t.Fatal(err)
		}
		keys[key] = true
	}
	if len(keys) != 3 {
		t.Errorf("%d keys, want 3", len(keys))
	}
	for _, fleetYAML := range []string{"yaml:\n  overlays: [absent]\n", "yaml:\n  overlays: [../../..]\n"} {
		files["web/fleet.yaml"] = fleetYAML
		_, err := discover(t, files, "web")
		wantError(t, err, "web/fleet.yaml:2:14: ")
	}
	_, err := discover(t, with(chart("web"), "web/pinnace.yaml", bundleHead+"spec: {overrides: [{when: {}, overlays: [a]}]}\n"), "web")
	wantError(t, err, "web/pinnace.yaml:4:31: overlays are for plain manifests")
}

func TestBadFleetYAML(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"unknown field", "a: b\n", `web/fleet.yaml:1:1: unknown field "a"`},
		{"unsupported", "name: a\ndownstreamResources: [{}]\n", "web/fleet.yaml:2:1: downstreamResources: is not supported"},
		{"chart that is not there", "helm:\n  chart: ./nowhere\n", "web/fleet.yaml:2:10: there is no web/nowhere/Chart.yaml"},
		{"values file", "helm:\n  chart: .\n  valuesFiles:\n    - absent.yaml\n", "web/fleet.yaml:4:7: "},
		{"kustomization", "kustomize:\n  dir: overlay\n", "web/fleet.yaml:2:8: there is no kustomization.yaml in web/overlay"},
		{"kustomization of a cluster", "targetCustomizations:\n  - clusterName: a\n    kustomize:\n      dir: eu\n", "web/fleet.yaml:4:12: there is no kustomization.yaml in web/eu"},
		{"name", "\nname: A_b\n", "web/fleet.yaml:2:7: \"A_b\" is no name for a bundle"},
		{"namespace", "namespace: A_b\n", "web/fleet.yaml:1:12: \"A_b\" is no name for a namespace"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := discover(t, map[string]string{"web/fleet.yaml": test.in, "web/a.yaml": deployment}, "web")
			wantError(t, err, `source "apps": `, test.want)
		})
	}
	_, err := discover(t, map[string]string{"web/fleet.yaml": "", "web/pinnace.yaml": bundleHead, "web/a.yaml": deployment}, "web")
	wantError(t, err, `source "apps": web/pinnace.yaml:1:1: fleet.yaml describes the bundle too; remove one of them`)
}
