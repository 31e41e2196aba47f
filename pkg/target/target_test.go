package target

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func cluster(name string, values v1alpha1.Values, labels ...string) Cluster {
	var c Cluster
	c.Metadata = v1alpha1.Metadata{Name: name, Labels: map[string]string{}}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		c.Metadata.Labels[key] = value
	}
	c.Spec.Values = values
	return c
}

func bundle(name string, spec v1alpha1.BundleSpec) Bundle {
	if spec.Targets == nil {
		spec.Targets = []v1alpha1.TargetRule{{}}
	}
	b := Bundle{Source: v1alpha1.SourceIdentity{Name: "platform", Path: name}, Targets: spec.Targets}
	b.Metadata.Name = name
	b.Spec = spec
	return b
}

func group(name, key, value string) Group {
	var g Group
	g.Metadata.Name = name
	g.Metadata.Labels = map[string]string{"kind": "early"}
	g.Spec.Selector.MatchLabels = map[string]string{key: value}
	return g
}

func selector(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

// world has three clusters in two regions.
func world(bundles ...Bundle) Fleet {
	return Fleet{
		Name: "acme",
		Clusters: []Cluster{
			cluster("ship-7", v1alpha1.Values{"site": map[string]any{"id": "07", "uplink": 4.0}}, "region=sea"),
			cluster("factory-01", v1alpha1.Values{"site": map[string]any{"id": "01"}}, "region=eu", "ring=canary"),
			cluster("factory-02", v1alpha1.Values{"site": map[string]any{"id": "02"}}, "region=eu"),
		},
		Groups:  []Group{group("canary", "ring", "canary")},
		Bundles: bundles,
	}
}

func plan(t *testing.T, fleet Fleet) (*Fleet, []ClusterPlan) {
	t.Helper()
	checked, err := New(fleet)
	if err != nil {
		t.Fatal(err)
	}
	plans, err := checked.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return checked, plans
}

func TestTargeting(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules []v1alpha1.TargetRule
		want  []string
	}{
		{"the empty rule is everyone", []v1alpha1.TargetRule{{}}, []string{"factory-01", "factory-02", "ship-7"}},
		{"by name", []v1alpha1.TargetRule{{ClusterName: "ship-7"}}, []string{"ship-7"}},
		{"by selector", []v1alpha1.TargetRule{{ClusterSelector: selector("region", "eu")}}, []string{"factory-01", "factory-02"}},
		{"by expression", []v1alpha1.TargetRule{{Expression: "cluster.labels.region == 'sea' || cluster.values.site.id == '02'"}}, []string{"factory-02", "ship-7"}},
		{"a key that a cluster doesn't have is false", []v1alpha1.TargetRule{{Expression: "cluster.labels.ring == 'canary'"}}, []string{"factory-01"}},
		{"by group", []v1alpha1.TargetRule{{ClusterGroup: "canary"}}, []string{"factory-01"}},
		{"by the groups' labels", []v1alpha1.TargetRule{{ClusterGroupSelector: selector("kind", "early")}}, []string{"factory-01"}},
		{"no group has the labels", []v1alpha1.TargetRule{{ClusterGroupSelector: selector("kind", "late"), AllowEmpty: true}}, nil},
		{"any rule may match", []v1alpha1.TargetRule{{ClusterName: "ship-7"}, {ClusterGroup: "canary"}}, []string{"factory-01", "ship-7"}},
		{"all fields of one rule must", []v1alpha1.TargetRule{{ClusterGroup: "canary", ClusterSelector: selector("region", "sea"), AllowEmpty: true}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, plans := plan(t, world(bundle("web", v1alpha1.BundleSpec{Targets: test.rules})))
			var got []string
			for _, p := range plans {
				if len(p.Selected()) > 0 {
					got = append(got, p.Cluster.Metadata.Name)
				}
				if why := p.Assignments[0].Why; why == "" {
					t.Errorf("%s: no reason", p.Cluster.Metadata.Name)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("clusters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	spec := v1alpha1.BundleSpec{
		Namespace: "web",
		Helm:      &v1alpha1.Helm{Values: v1alpha1.Values{"a": map[string]any{"b": 1.0, "c": 2.0}, "list": []any{"x", "y"}, "gone": true}},
		Overrides: []v1alpha1.Override{
			{Name: "eu", When: v1alpha1.TargetRule{ClusterSelector: selector("region", "eu")}, Namespace: "web-eu", Values: v1alpha1.Values{"a": map[string]any{"b": 5.0}, "list": []any{"z"}}},
			{Name: "canary", When: v1alpha1.TargetRule{ClusterGroup: "canary"}, Values: v1alpha1.Values{"a": map[string]any{"c": 9.0}, "gone": nil}},
			{Name: "sea", When: v1alpha1.TargetRule{ClusterName: "ship-7"}, Skip: true},
		},
	}
	byName := func(spec v1alpha1.BundleSpec) map[string]Assignment {
		_, plans := plan(t, world(bundle("web", spec)))
		out := map[string]Assignment{}
		for _, p := range plans {
			out[p.Cluster.Metadata.Name] = p.Assignments[0]
		}
		return out
	}

	merged := byName(spec)
	// The null reaches Helm, which leaves the chart's default out for it.
	want := v1alpha1.Values{"a": map[string]any{"b": 5.0, "c": 9.0}, "list": []any{"z"}, "gone": nil}
	if diff := cmp.Diff(want, merged["factory-01"].Values); diff != "" {
		t.Errorf("merged values (-want +got):\n%s", diff)
	}
	if got := merged["factory-01"]; got.Namespace != "web-eu" || !slices.Equal(got.Overrides, []string{"eu", "canary"}) {
		t.Errorf("got namespace %q and overrides %q", got.Namespace, got.Overrides)
	}
	if got := merged["ship-7"]; got.Selected || got.Why != "skipped by override sea" {
		t.Errorf("got selected %v because %q", got.Selected, got.Why)
	}

	spec.OverrideMode = v1alpha1.OverrideFirst
	if got := byName(spec)["factory-01"].Overrides; !slices.Equal(got, []string{"eu"}) {
		t.Errorf("mode first: got overrides %q, want only eu", got)
	}
	if got := spec.Helm.Values["a"].(map[string]any)["b"]; got != 1.0 {
		t.Errorf("the bundle's own values were changed: %v", got)
	}
}

func TestTemplates(t *testing.T) {
	values := v1alpha1.Values{
		"site":    "${ .cluster.values.site.id }",
		"label":   "${ .cluster.name }-${ .cluster.labels.region | upper }",
		"uplink":  "${ .cluster.values.site.uplink | default 100 }",
		"whole":   "${ .cluster.values.site }",
		"plain":   "no template",
		"inside":  []any{map[string]any{"deep": "${ .cluster.name }"}},
		"chosen":  `${ if eq .cluster.labels.region "sea" }boat${ else }land${ end }`,
		"ternary": `${ eq .cluster.labels.region "sea" }`,
	}
	_, plans := plan(t, world(bundle("web", v1alpha1.BundleSpec{
		Helm: &v1alpha1.Helm{Values: values}, Targets: []v1alpha1.TargetRule{{ClusterName: "ship-7"}},
		Variables: map[string]string{"UPLINK": "${ .cluster.values.site.uplink }"},
	})))
	got := plans[2].Assignments[0]
	want := v1alpha1.Values{
		"site": "07", "label": "ship-7-SEA", "uplink": 4.0, "whole": map[string]any{"id": "07", "uplink": 4.0},
		"plain": "no template", "inside": []any{map[string]any{"deep": "ship-7"}}, "chosen": "boat", "ternary": true,
	}
	if diff := cmp.Diff(want, got.Values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if got.Variables["UPLINK"] != "4" {
		t.Errorf("variable: got %q, want 4", got.Variables["UPLINK"])
	}
}

func TestBadFleets(t *testing.T) {
	helm := func(values v1alpha1.Values) v1alpha1.BundleSpec {
		return v1alpha1.BundleSpec{Helm: &v1alpha1.Helm{Values: values}}
	}
	depends := func(on ...string) v1alpha1.BundleSpec {
		var spec v1alpha1.BundleSpec
		for _, name := range on {
			spec.DependsOn = append(spec.DependsOn, v1alpha1.Dependency{Bundle: name})
		}
		return spec
	}
	double := world(bundle("web", v1alpha1.BundleSpec{}))
	double.Clusters = append(double.Clusters, cluster("ship-7", nil))
	none := bundle("web", v1alpha1.BundleSpec{})
	none.Targets = nil
	for _, test := range []struct {
		name  string
		fleet Fleet
		want  string
	}{
		{"no cluster", Fleet{Bundles: []Bundle{bundle("web", v1alpha1.BundleSpec{})}}, "no cluster"},
		{"wrong expression", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{Expression: "cluster.labels.x =="}}})), "Syntax error"},
		{"expression that is no boolean", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{Expression: "'yes'"}}})), "yields string"},
		{"facts that aren't allowed", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{Expression: "reported.kubernetes == 'v1.36.3'"}}})), "reportedFacts: true"},
		{"endless expression", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{Expression: "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, a+b+c+d+e > 0)))))"}}})), "selects none"},
		{"namespace out of bounds", world(restricted(v1alpha1.BundleSpec{Namespace: "kube-system"})), `namespace "kube-system" is not allowed for source "platform", which is restricted to team-a-*`},
		{"no namespace is default", world(restricted(v1alpha1.BundleSpec{})), `namespace "default" is not allowed`},
		{"labels on a namespace", world(restricted(v1alpha1.BundleSpec{Namespace: "team-a-x", DeployOptions: v1alpha1.DeployOptions{NamespaceLabels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}})), "namespaceLabels and namespaceAnnotations are not allowed"},
		{"another service account", world(restricted(v1alpha1.BundleSpec{Namespace: "team-a-x", DeployOptions: v1alpha1.DeployOptions{ServiceAccount: "admin"}})), `service account "admin" is not allowed`},
		{"duplicate cluster", double, `duplicate cluster "ship-7"`},
		{"duplicate bundle", world(bundle("web", v1alpha1.BundleSpec{}), bundle("web", v1alpha1.BundleSpec{})), `duplicate bundle "web"`},
		{"nobody targeted", world(none), "has no targets"},
		{"selects nothing", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{ClusterSelector: selector("region", "mars")}}})), "selects none of the 3 clusters"},
		{"unknown group", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{ClusterGroup: "canaries"}}})), `group "canaries" is not in the inventory; there are canary`},
		{"unknown cluster", world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{ClusterName: "ship-8"}}})), `"ship-8" is not in the inventory`},
		{"override of nobody", world(bundle("web", v1alpha1.BundleSpec{Overrides: []v1alpha1.Override{{When: v1alpha1.TargetRule{ClusterName: "x"}}}})), "override"},
		{"missing key", world(bundle("web", helm(v1alpha1.Values{"a": "${ .cluster.values.absent }"}))), `cluster "factory-01"`},
		{"missing key in text", world(bundle("web", helm(v1alpha1.Values{"a": "x${ .cluster.values.absent }"}))), `no entry for key "absent"`},
		{"reads the environment", world(bundle("web", helm(v1alpha1.Values{"a": `${ env "HOME" }`}))), `"env" not defined`},
		{"grows without end", world(bundle("web", helm(v1alpha1.Values{"a": `x${ repeat 2000000 "x" }`}))), "more than"},
		{"dependency of no source", world(bundle("web", depends("db"))), `depends on "db", which no source has`},
		{"dependency elsewhere", world(bundle("web", depends("db")), bundle("db", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{ClusterName: "ship-7"}}})), `which this cluster does not get`},
		{"circle", world(bundle("a", depends("b")), bundle("b", depends("c")), bundle("c", depends("a"))), "a → b → c → a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checked, err := New(test.fleet)
			if err == nil {
				_, err = checked.Plan()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestExcludeAndFacts(t *testing.T) {
	web := bundle("web", v1alpha1.BundleSpec{
		Targets: []v1alpha1.TargetRule{{Expression: "reported.kubernetes.startsWith('v1.36.') || cluster.name == 'factory-01'"}},
		Exclude: []v1alpha1.TargetRule{{ClusterGroup: "canary"}},
	})
	fleet := world(web)
	fleet.Spec.ReportedFacts = true
	fleet.Facts = map[string]Facts{"ship-7": {Kubernetes: "v1.36.3"}}
	_, plans := plan(t, fleet)
	var got []string
	for _, p := range plans {
		got = append(got, fmt.Sprint(p.Assignments[0].Selected))
	}
	if diff := cmp.Diff([]string{"false", "false", "true"}, got); diff != "" {
		t.Errorf("selected per cluster (-want +got):\n%s", diff)
	}
	if why := plans[0].Assignments[0].Why; why != "excluded: clusterGroup canary" {
		t.Errorf("factory-01 is left out because %q", why)
	}
}

func TestFacts(t *testing.T) {
	facts := map[string]Facts{
		"ship-7":     {Kubernetes: "v1.36.3+k3s1", Agent: "v0.2.0", Nodes: 3, Architectures: []string{"amd64", "arm64"}},
		"factory-01": {Kubernetes: "v1.9.0", Nodes: 1, Architectures: []string{"amd64"}},
	}
	for expression, want := range map[string]string{
		"reported.nodes >= 3":                                                "ship-7",
		"'arm64' in reported.architectures":                                  "ship-7",
		"reported.architectures.all(a, a == 'amd64') && reported.nodes == 1": "factory-01",
		"reported.kubernetesMinor >= 10":                                     "ship-7", // as text 1.9 is greater
		"reported.kubernetesMinor == 0":                                      "factory-02",
		"reported.agent == 'v0.2.0'":                                         "ship-7",
	} {
		fleet := world(bundle("web", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{Expression: expression}}}))
		fleet.Spec.ReportedFacts, fleet.Facts = true, facts
		_, plans := plan(t, fleet)
		var got []string
		for _, p := range plans {
			if p.Assignments[0].Selected {
				got = append(got, p.Cluster.Metadata.Name)
			}
		}
		if diff := cmp.Diff([]string{want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", expression, diff)
		}
	}
}

func restricted(spec v1alpha1.BundleSpec) Bundle {
	b := bundle("web", spec)
	b.Restrict = &v1alpha1.Restrict{Namespaces: []string{"team-a-*"}, ServiceAccount: "team-a"}
	return b
}

func TestRestrictedBundlesWithinBounds(t *testing.T) {
	checked, plans := plan(t, world(restricted(v1alpha1.BundleSpec{Namespace: "team-a-web"})))
	got := checked.Assemble(plans[0], func(Assignment) Artifact { return Artifact{} }).Bundles[0]
	if got.Namespace != "team-a-web" || got.ServiceAccount != "team-a" {
		t.Errorf("got namespace %q and service account %q", got.Namespace, got.ServiceAccount)
	}
}

func TestDependenciesBySelector(t *testing.T) {
	crds := bundle("crds", v1alpha1.BundleSpec{Targets: []v1alpha1.TargetRule{{ClusterName: "ship-7"}}})
	crds.Metadata.Labels = map[string]string{"layer": "crds"}
	web := bundle("web", v1alpha1.BundleSpec{DependsOn: []v1alpha1.Dependency{{Selector: selector("layer", "crds")}}})
	_, plans := plan(t, world(web, crds))
	var got [][]string
	for _, p := range plans {
		got = append(got, p.Assignments[1].DependsOn)
	}
	if diff := cmp.Diff([][]string{nil, nil, {"crds"}}, got); diff != "" {
		t.Errorf("dependencies per cluster (-want +got):\n%s", diff)
	}
}

func TestVariantsShareWhatRendersTheSame(t *testing.T) {
	spec := v1alpha1.BundleSpec{Helm: &v1alpha1.Helm{Values: v1alpha1.Values{"name": "${ .cluster.name }"}}}
	count := func() int {
		_, plans := plan(t, world(bundle("web", spec)))
		seen := map[string]bool{}
		for _, p := range plans {
			seen[p.Assignments[0].Variant] = true
		}
		return len(seen)
	}
	if got := count(); got != 1 {
		t.Errorf("a release is one artifact for all clusters, got %d", got)
	}
	spec.Helm.Install = v1alpha1.InstallApply
	if got := count(); got != 3 {
		t.Errorf("rendered with each cluster's values it is 3, got %d", got)
	}
	spec.Helm.Values = v1alpha1.Values{"name": "constant"}
	spec.Overrides = []v1alpha1.Override{{When: v1alpha1.TargetRule{ClusterName: "ship-7"}, Namespace: "other"}}
	if got := count(); got != 2 {
		t.Errorf("rendered for two namespaces it is 2, got %d", got)
	}
}

// BenchmarkPlan plans 150 bundles with 12 overrides and templated values for 500 clusters.
func BenchmarkPlan(b *testing.B) {
	fleet := Fleet{Name: "bench"}
	for i := range 500 {
		fleet.Clusters = append(fleet.Clusters, cluster(fmt.Sprintf("c-%04d", i), v1alpha1.Values{"site": map[string]any{"id": i}}, fmt.Sprintf("ring=%d", i%12)))
	}
	for i := range 150 {
		spec := v1alpha1.BundleSpec{Helm: &v1alpha1.Helm{Values: v1alpha1.Values{
			"site": "${ .cluster.values.site.id }", "host": "${ .cluster.name }.example.com",
			"image": map[string]any{"tag": "1.2.3", "pullPolicy": "IfNotPresent"}, "replicas": 2.0,
		}}}
		for ring := range 12 {
			spec.Overrides = append(spec.Overrides, v1alpha1.Override{
				When: v1alpha1.TargetRule{ClusterSelector: selector("ring", fmt.Sprint(ring))}, Values: v1alpha1.Values{"ring": float64(ring)},
			})
		}
		fleet.Bundles = append(fleet.Bundles, bundle(fmt.Sprintf("b-%03d", i), spec))
	}
	checked, err := New(fleet)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for i := range checked.Clusters {
			plan, err := checked.PlanCluster(i)
			if err != nil {
				b.Fatal(err)
			}
			Content(checked.Assemble(plan, func(Assignment) Artifact { return Artifact{Digest: "sha256:1", Method: v1alpha1.MethodRelease} }))
		}
	}
}

func TestAssembleIsTheSameWhateverTheOrder(t *testing.T) {
	fleet := world(bundle("b", v1alpha1.BundleSpec{}), bundle("a", v1alpha1.BundleSpec{Helm: &v1alpha1.Helm{Values: v1alpha1.Values{"x": 1.0, "y": 2.0}}}))
	turned := world(fleet.Bundles[1], fleet.Bundles[0])
	slices.Reverse(turned.Clusters)
	contents := func(fleet Fleet) []string {
		checked, plans := plan(t, fleet)
		var out []string
		for _, p := range plans {
			out = append(out, Content(checked.Assemble(p, func(Assignment) Artifact { return Artifact{Digest: "sha256:1", Method: v1alpha1.MethodRelease} })))
		}
		return out
	}
	if diff := cmp.Diff(contents(fleet), contents(turned)); diff != "" {
		t.Errorf("contents (-one +other):\n%s", diff)
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	target := v1alpha1.Target{Cluster: "ship-7", Bundles: []v1alpha1.TargetBundle{{Name: "web"}}}
	known := func(bundles ...string) v1alpha1.IndexCluster {
		return v1alpha1.IndexCluster{Generation: 4, Content: Content(target), Bundles: bundles, ExpiresAt: metav1.NewTime(now.Add(500 * time.Hour))}
	}
	other := known("web")
	other.Content = "other"
	expiring := known("web")
	expiring.ExpiresAt = metav1.NewTime(now.Add(300 * time.Hour))
	many := known("a", "b", "web")
	many.Content = "other"
	half := known("a", "web")
	half.Content = "other"
	for _, test := range []struct {
		name       string
		previous   v1alpha1.IndexCluster
		allowPrune bool
		action     Action
		generation int64
	}{
		{"first", v1alpha1.IndexCluster{}, false, Created, 1},
		{"same", known("web"), false, Unchanged, 5},
		{"same but half its validity is over", expiring, false, Renewed, 5},
		{"other content", other, false, Changed, 5},
		{"half is removed", half, false, Changed, 5},
		{"more than half is removed", many, false, Refused, 5},
		{"more than half is removed on purpose", many, true, Changed, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			decision := Decide(Content(target), BundleNames(target), test.previous, Options{Now: now, AllowPrune: test.allowPrune})
			got := decision.Issue(target)
			if decision.Action != test.action || got.Generation != test.generation {
				t.Errorf("got %s of generation %d (%s), want %s of %d", decision.Action, got.Generation, decision.Reason, test.action, test.generation)
			}
			if want := now.Truncate(time.Second).Add(DefaultValidity); !got.ExpiresAt.Time.Equal(want) {
				t.Errorf("expires at %s, want %s", got.ExpiresAt, want)
			}
			if got.AllowPrune != (test.name == "more than half is removed on purpose") {
				t.Errorf("allowPrune is %v", got.AllowPrune)
			}
		})
	}
}
