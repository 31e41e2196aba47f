package publish

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

const tenants = `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  registry: 127.0.0.1:1/acme
  inventory: [clusters]
  sources:
    - {name: platform, paths: [bundles/b], targets: [{}]}
    - {name: team, paths: [bundles/a], restrict: {namespaces: [team-*], serviceAccount: team}, targets: [{}]}
`

func tenant(spec string) string {
	return "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec: {" + spec + "}\n"
}

func inNamespace(name, namespace string) string {
	return strings.Replace(configMap(name, "1"), "{name: "+name+"}", "{name: "+name+", namespace: "+namespace+"}", 1)
}

// A source that is restricted to some namespaces and a service account publishes nothing beyond them, whatever its bundle
// and its objects say; the refusal names the bundle, the rule and the source.
func TestTenantsStayWithinTheirBounds(t *testing.T) {
	tests := []struct {
		name, spec, object string
		want               []string // of the refusal; none for what is published
	}{
		{name: "the bundle's namespace", spec: "namespace: team-a", object: configMap("a", "1")},
		{name: "another one of theirs", spec: "namespace: team-a", object: inNamespace("a", "team-b")},
		{name: "their service account", spec: "namespace: team-a, serviceAccount: team", object: configMap("a", "1")},
		{
			name: "the bundle's namespace is another's", spec: "namespace: kube-system", object: configMap("a", "1"),
			want: []string{"bundles/a/pinnace.yaml", `"a"`, `namespace "kube-system" is not allowed for source "team"`, "restricted to team-*"},
		},
		{
			name: "no namespace is default", spec: "", object: configMap("a", "1"),
			want: []string{"bundles/a/pinnace.yaml", `"a"`, `namespace "default" is not allowed for source "team"`},
		},
		{
			name: "an object's namespace", spec: "namespace: team-a", object: inNamespace("a", "kube-system"),
			want: []string{`bundle "a": ConfigMap a: namespace "kube-system" is not allowed for source "team"`, "restricted to team-*"},
		},
		{
			name: "an override for one cluster", spec: "namespace: team-a, overrides: [{when: {clusterName: west}, namespace: other}]", object: configMap("a", "1"),
			want: []string{"bundles/a/pinnace.yaml", `"a"`, `namespace "other" is not allowed for source "team"`},
		},
		{
			name: "another service account", spec: "namespace: team-a, serviceAccount: admin", object: configMap("a", "1"),
			want: []string{"bundles/a/pinnace.yaml", `"a"`, `service account "admin" is not allowed for source "team"`, `restricted to "team"`},
		},
		{
			name: "labels of the namespace", spec: "namespace: team-a, namespaceLabels: {x: y}", object: configMap("a", "1"),
			want: []string{"bundles/a/pinnace.yaml", `"a"`, `namespaceLabels and namespaceAnnotations are not allowed for source "team"`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			registry := &counting{Registry: oci.NewMemory()}
			dir := write(t, t.TempDir(), map[string]string{
				FleetFile: tenants, "bundles/a/pinnace.yaml": tenant(tt.spec), "bundles/a/cm.yaml": tt.object,
				"bundles/b/cm.yaml": inNamespace("b", "kube-system"), // others are not restricted
			})
			_, err := run(t, registry, options(t, dir, releaseSigner(t)))
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				checkTenants(t, registry)
				return
			}
			if err == nil || registry.writes.Load() != 0 {
				t.Fatalf("got %v after %d writes, want a refusal", err, registry.writes.Load())
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q doesn't say %s", err, part)
				}
			}
		})
	}
}

// checkTenants fails unless what agents verify says whose bundle it is and what it may: the target and, of the source,
// the artifact, too.
func checkTenants(t *testing.T, registry oci.Registry) {
	t.Helper()
	got, err := seen(t, registry, releaseSigner(t), "east")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*v1alpha1.Restrict{"platform": nil, "team": {Namespaces: []string{"team-*"}, ServiceAccount: "team"}}
	have := map[string]*v1alpha1.Restrict{}
	for _, bundle := range got.Bundles {
		have[bundle.Source.Name] = bundle.Restrict
		if bundle.Source.Name == "team" && bundle.ServiceAccount != "team" {
			t.Errorf("bundle %s runs as %q", bundle.Name, bundle.ServiceAccount)
		}
		repo, err := registry.Repository(bundle.Repository)
		if err != nil {
			t.Fatal(err)
		}
		desc, err := repo.Resolve(t.Context(), bundle.Digest)
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := releaseSigner(t).Verifier(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		verified, err := verifier.Verify(t.Context(), repo, bundle.Repository, desc)
		if err != nil {
			t.Fatal(err)
		}
		artifact, err := oci.FetchBundle(t.Context(), repo, verified)
		if err != nil {
			t.Fatal(err)
		}
		if artifact.Config.Source.Name != bundle.Source.Name {
			t.Errorf("bundle %s is of source %q, its artifact says %q", bundle.Name, bundle.Source.Name, artifact.Config.Source.Name)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("restrictions by source (-want +got):\n%s", diff)
	}
}
