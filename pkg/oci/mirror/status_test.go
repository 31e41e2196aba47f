package mirror_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// What lies in a registry and what agents kept on their disks is brought together; of a cluster in both the newer counts.
func TestStatusOfSeveralPlaces(t *testing.T) {
	report := func(place oci.Registry, cluster, at string) string {
		t.Helper()
		repo, err := place.Repository(v1alpha1.StatusRepository(cluster))
		if err != nil {
			t.Fatal(err)
		}
		payload := fmt.Appendf(nil, `{"cluster":%q,"reportedAt":%q}`, cluster, at)
		envelope := fmt.Appendf(nil, `{"payloadType":%q,"payload":%q}`, v1alpha1.MediaTypeStatus, base64.StdEncoding.EncodeToString(payload))
		desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
			Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}},
		}, v1alpha1.TagCurrent)
		if err != nil {
			t.Fatal(err)
		}
		return desc.Digest.String()
	}
	layout := func() oci.Registry {
		t.Helper()
		opened, err := oci.OpenLayout(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return opened
	}
	one, two := layout(), layout()
	want := map[string]string{"status/a": report(one, "a", "2026-11-01T10:00:00Z"), "status/b": report(one, "b", "2026-11-01T12:00:00Z")}
	report(two, "b", "2026-11-01T11:00:00Z")
	want["status/c"] = report(two, "c", "2026-11-01T10:00:00Z")

	for _, places := range [][]oci.Registry{{one, two}, {two, one}} {
		closure, open, err := mirror.FindStatus(t.Context(), places...)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, entry := range closure.Entries {
			got[entry.Repository] = entry.Digest.String()
			repo, err := open(entry)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := oci.ReadAll(t.Context(), repo, entry.Descriptor(), oci.MaxManifest); err != nil {
				t.Errorf("%s is not where it is opened: %v", entry.Repository, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, closure.Clusters); diff != "" {
			t.Errorf("clusters (-want +got):\n%s", diff)
		}
	}
}
