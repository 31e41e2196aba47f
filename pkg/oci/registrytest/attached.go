package registrytest

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// referrer is a manifest of its own that names a subject.
func referrer(t *testing.T, repo oci.Repository, subject ocispec.Descriptor, text string) ocispec.Descriptor {
	t.Helper()
	layer := oci.Blob{MediaType: "text/plain", Data: []byte(text)}
	empty := oci.Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: ocispec.DescriptorEmptyJSON.Data}
	for _, blob := range []oci.Blob{layer, empty} {
		if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.referrer", Config: empty.Descriptor(),
		Layers:  []ocispec.Descriptor{layer.Descriptor()},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
	if err != nil {
		t.Fatal(err)
	}
	desc := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}.Descriptor()
	if err := oci.PushAttached(t.Context(), repo, desc, data); err != nil {
		t.Fatal(err)
	}
	return desc
}

// testAttached: what belongs to a manifest is found in both layouts, and copied along with it.
func testAttached(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/attached")
	subject := push(t, repo, sample(1), "v1")
	if got, err := oci.ListAttached(t.Context(), repo, subject); err != nil || len(got) > 0 {
		t.Errorf("before: got %v (%v), want nothing", got, err)
	}
	want := map[string]string{} // tag by digest
	for i, tag := range []string{oci.SignatureTag(subject.Digest), oci.AttestationTag(subject.Digest)} {
		want[push(t, repo, sample(10+i), tag).Digest.String()] = tag
	}
	for _, text := range []string{"first", "second", "first"} {
		want[referrer(t, repo, subject, text).Digest.String()] = ""
	}
	read := func(repo oci.Repository) map[string]string {
		attached, err := oci.ListAttached(t.Context(), repo, subject)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, one := range attached {
			got[one.Descriptor.Digest.String()] = one.Tag
		}
		if len(got) != len(attached) {
			t.Errorf("%d entries for %d manifests", len(attached), len(got))
		}
		return got
	}
	if diff := cmp.Diff(want, read(repo)); diff != "" {
		t.Errorf("attached, tag by digest (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, read(oci.AttachedListed(repo))); diff != "" {
		t.Errorf("attached, by a list of tags (-want +got):\n%s", diff)
	}

	copied := repository(t, store, "conformance/attached-copy")
	if err := oci.Copy(t.Context(), repo, copied, subject, "v1"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read(copied)); diff != "" {
		t.Errorf("attached to the copy (-want +got):\n%s", diff)
	}
	desc, data, err := oci.FetchTagged(t.Context(), copied, "v1")
	if err != nil || desc.Digest != subject.Digest || !bytes.Equal(data, sample(1).Manifest().Data) {
		t.Errorf("fetch the copy by its tag: got %s %q (%v)", desc.Digest, data, err)
	}
	_, _, err = oci.FetchTagged(t.Context(), copied, "absent")
	wantError(t, "fetch an absent tag", err, oci.ErrNotFound)
}
