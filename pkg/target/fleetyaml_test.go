package target

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func TestOverlays(t *testing.T) {
	spec := v1alpha1.BundleSpec{
		Manifests: &v1alpha1.Manifests{Overlays: []string{"all"}},
		Overrides: []v1alpha1.Override{
			{When: v1alpha1.TargetRule{ClusterName: "ship-7"}, Overlays: []string{"sea", "small"}},
			{When: v1alpha1.TargetRule{}, Overlays: []string{"last"}},
		},
	}
	_, plans := plan(t, world(bundle("web", spec)))
	variants := map[string]bool{}
	for _, p := range plans {
		want := []string{"all", "last"}
		if p.Cluster.Metadata.Name == "ship-7" {
			want = []string{"all", "sea", "small", "last"}
		}
		if diff := cmp.Diff(want, p.Assignments[0].Overlays); diff != "" {
			t.Errorf("%s (-want +got):\n%s", p.Cluster.Metadata.Name, diff)
		}
		variants[p.Assignments[0].Variant] = true
	}
	if len(variants) != 2 {
		t.Errorf("%d variants, want 2", len(variants))
	}
}

// What a fleet.yaml's templates are turned into.
func TestTemplatesOfFleetYAML(t *testing.T) {
	_, plans := plan(t, world(bundle("web", v1alpha1.BundleSpec{
		Helm: &v1alpha1.Helm{Values: v1alpha1.Values{
			"index":   `${ index .cluster.labels "region" }`,
			"dotted":  `${ index .cluster.labels "example.com/zone" | default "none" }`,
			"label":   `${ get .cluster.labels "region" }`,
			"absent":  `${ get .cluster.labels "example.com/zone" }`,
			"literal": `echo ${"${"}HOME} ${"${"}`,
			"number":  `${ .cluster.values.site.id | int }`,
		}},
		Targets: []v1alpha1.TargetRule{{ClusterName: "ship-7"}},
	})))
	want := v1alpha1.Values{
		"index": "sea", "dotted": "none", "label": "sea", "absent": "", "literal": "echo ${HOME} ${", "number": 7,
	}
	if diff := cmp.Diff(want, plans[2].Assignments[0].Values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}
