package bundler_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	key, err := bundler.Key(found, bundler.Variant{})
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

func TestBadFleetYAML(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"unknown field", "a: b\n", `web/fleet.yaml:1:1: unknown field "a"`},
		{"unsupported", "name: a\npaused: true\n", "web/fleet.yaml:2:9: paused: is not supported"},
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
