package publish

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// What agents reported of their hardware decides which bundles they get, as far as their own key signed it.
func TestTargetingOverReportedFacts(t *testing.T) {
	registry := oci.NewMemory()
	own, stranger := memorySigner(t), memorySigner(t)
	key := strings.ReplaceAll(strings.TrimSpace(string(own.PublicKey())), "\n", "\n    ")
	withKey := func(name string) string { return cluster(name) + "spec:\n  statusKey: |\n    " + key + "\n" }
	opts := options(t, write(t, t.TempDir(), map[string]string{
		"pinnace.yaml":      strings.Replace(fleetFile, "spec:\n", "spec:\n  reportedFacts: true\n", 1),
		"clusters/all.yaml": withKey("east") + "---\n" + withKey("west"),
		"bundles/a/pinnace.yaml": `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: a}
spec: {targets: [{expression: "'arm64' in reported.architectures && reported.nodes >= 3 && reported.kubernetesMinor >= 34", allowEmpty: true}]}
`,
	}), releaseSigner(t))
	report := func(name string, signer *signing.Signer, kubernetes string, nodes int, architectures ...string) {
		t.Helper()
		payload, err := json.Marshal(v1alpha1.StatusReport{
			TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindStatusReport}, Fleet: "acme", Cluster: name,
			ReportedAt: metav1.NewTime(start), Kubernetes: kubernetes, Nodes: nodes, Architectures: architectures,
		})
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := signer.SignEnvelope(t.Context(), v1alpha1.MediaTypeStatus, payload)
		if err != nil {
			t.Fatal(err)
		}
		repo, err := registry.Repository(v1alpha1.StatusRepository(name))
		if err != nil {
			t.Fatal(err)
		}
		artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}}}
		if _, _, err := oci.Push(t.Context(), repo, artifact, v1alpha1.TagCurrent); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, want map[string]string) {
		t.Helper()
		mustRun(t, registry, opts)
		got := map[string]string{}
		for _, name := range []string{"east", "west"} {
			got[name] = strings.Join(slices.Sorted(maps.Keys(digestsOf(t, registry, name))), " ")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}

	check("nobody reported", map[string]string{"east": "b c", "west": "b c"})
	report("east", own, "v1.34.2+k3s1", 3, "amd64", "arm64")
	report("west", stranger, "v1.34.2", 3, "arm64")
	check("west's report is not its own", map[string]string{"east": "a b c", "west": "b c"})
	report("west", own, "v1.33.9", 3, "arm64")
	check("west is too old", map[string]string{"east": "a b c", "west": "b c"})
	report("west", own, "v1.35.0", 2, "arm64")
	report("east", own, "v1.34.2", 3, "amd64")
	check("west is too small, east has other nodes now", map[string]string{"east": "b c", "west": "b c"})
	report("west", own, "v1.35.0", 5, "arm64")
	check("west has grown", map[string]string{"east": "b c", "west": "a b c"})
}

func memorySigner(t *testing.T) *signing.Signer {
	t.Helper()
	signer, err := signing.NewMemorySigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
