package target

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/sealed"
)

func TestTemplateValues(t *testing.T) {
	spec := v1alpha1.BundleSpec{
		Helm: &v1alpha1.Helm{
			Values: v1alpha1.Values{"taken": map[string]any{"a": 1}, "kept": "${ .cluster.name }"},
			TemplateValues: map[string]string{
				"taken":  "b: ${ .cluster.values.site.id }",
				"digits": "${ .cluster.values.site.id }", // text that reads as a number is one
				"list":   "${ range $key, $value := .cluster.labels }\n- {name: ${ $key }, value: ${ $value }}${ end }",
				"fixed":  "{x: [1, z]}",
				"when":   `${ if eq (get .cluster.labels "region") "sea" }shown: true${ end }`,
			},
		},
		Overrides: []v1alpha1.Override{
			{When: v1alpha1.TargetRule{ClusterName: "ship-7"}, Values: v1alpha1.Values{"taken": "never"}},
			{When: v1alpha1.TargetRule{ClusterName: "factory-01"}, TemplateValues: map[string]string{"list": "[]", "more": "'5'"}},
		},
	}
	_, plans := plan(t, world(bundle("web", spec)))
	got := map[string]v1alpha1.Values{}
	for _, p := range plans {
		got[p.Cluster.Metadata.Name] = p.Assignments[0].Values
	}
	fixed := map[string]any{"x": []any{int64(1), "z"}}
	want := map[string]v1alpha1.Values{
		"ship-7": {
			"taken": map[string]any{"b": int64(7)}, "kept": "ship-7", "digits": int64(7), "fixed": fixed,
			"list": []any{map[string]any{"name": "region", "value": "sea"}}, "when": map[string]any{"shown": true},
		},
		"factory-01": {
			"taken": map[string]any{"b": int64(1)}, "kept": "factory-01", "digits": int64(1), "fixed": fixed,
			"list": []any{}, "when": nil, "more": "5",
		},
		"factory-02": {
			"taken": map[string]any{"b": int64(2)}, "kept": "factory-02", "digits": int64(2), "fixed": fixed,
			"list": []any{map[string]any{"name": "region", "value": "eu"}}, "when": nil,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

// A text and the same text as a value are not the same variant: one is read as YAML.
func TestTemplateValuesVariants(t *testing.T) {
	_, plans := plan(t, world(bundle("web", v1alpha1.BundleSpec{
		Helm: &v1alpha1.Helm{Install: v1alpha1.InstallApply},
		Overrides: []v1alpha1.Override{
			{Name: "one", When: v1alpha1.TargetRule{ClusterName: "ship-7"}, Values: v1alpha1.Values{"a": "1"}},
			{Name: "one", When: v1alpha1.TargetRule{ClusterName: "factory-01"}, TemplateValues: map[string]string{"a": "1"}},
		},
	})))
	variants := map[string]bool{}
	for _, p := range plans {
		variants[p.Assignments[0].Variant] = true
	}
	if len(variants) != 3 {
		t.Errorf("%d variants, want 3", len(variants))
	}
}

func TestTemplateValuesFail(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"${ .cluster.values.absent }", "map has no entry for key"},
		{"${ .cluster.name", "unclosed action"},
		{"a: [${ .cluster.name }", `it yields "a: [`},
		{"a: [", `it yields "a: [", which is no YAML`},
	} {
		fleet, err := New(world(bundle("web", v1alpha1.BundleSpec{Helm: &v1alpha1.Helm{TemplateValues: map[string]string{"key": test.text}}})))
		if err == nil {
			_, err = fleet.Plan()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `bundle "web"`) {
			t.Errorf("%s: got %v, want %s", test.text, err, test.want)
		}
	}
}

// What a text makes of a secret is sealed as a whole, and never shown.
func TestTemplateValuesSecret(t *testing.T) {
	_, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	world := world(bundle("web", v1alpha1.BundleSpec{
		Helm:    &v1alpha1.Helm{TemplateValues: map[string]string{"db": "password: ${ .cluster.values.password }"}},
		Targets: []v1alpha1.TargetRule{{ClusterName: "ship-7"}},
	}))
	for _, test := range []struct{ password, want string }{{"hunter2", ""}, {"[hunter2", "holds a secret value"}} {
		world.Clusters[0].Spec.Recipients = []string{recipient}
		world.Clusters[0].Spec.Values = v1alpha1.Values{"password": map[string]any{"secret": true, "value": test.password}}
		fleet, err := New(world)
		if err != nil {
			t.Fatal(err)
		}
		plans, err := fleet.Plan()
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plans {
			if p.Cluster.Metadata.Name != "ship-7" {
				continue
			}
			secrets := p.Assignments[0].Secrets
			if len(secrets) != 1 || secrets[0].Path != "/values/db" || !cmp.Equal(secrets[0].Value, any(map[string]any{"password": "hunter2"})) {
				t.Errorf("secrets: %+v", secrets)
			}
		}
	}
}
