package oci_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

var artifact = oci.Artifact{
	Type:   v1alpha1.ArtifactTypeBundle,
	Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: []byte(`{}`)},
	Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeBundleContent, Data: []byte("content")}},
}

func repository(t *testing.T, registry oci.Registry, name string) oci.Repository {
	t.Helper()
	repo, err := registry.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func TestPushSaysWhatIsNew(t *testing.T) {
	repo := repository(t, oci.NewMemory(), "bundles/web")
	desc, created, err := oci.Push(t.Context(), repo, artifact, "one")
	if err != nil || !created {
		t.Fatalf("first push: created %v, %v", created, err)
	}
	_, created, err = oci.Push(t.Context(), repo, artifact, "one", "two")
	if err != nil || created {
		t.Fatalf("second push: created %v, %v", created, err)
	}
	for _, tag := range []string{"one", "two"} {
		if got, err := repo.Resolve(t.Context(), tag); err != nil || got.Digest != desc.Digest {
			t.Errorf("tag %s: got %s and %v, want %s", tag, got.Digest, err, desc.Digest)
		}
	}
}

func TestDecodeJSONIsStrict(t *testing.T) {
	head := `{"apiVersion":"pinnace.dev/v1alpha1","kind":"Target"`
	for name, data := range map[string]string{
		"unknown field":   head + `,"surprise":1}`,
		"duplicate key":   head + `,"cluster":"a","cluster":"b"}`,
		"other case":      head + `,"Cluster":"a"}`,
		"another kind":    `{"apiVersion":"pinnace.dev/v1alpha1","kind":"FleetIndex"}`,
		"another version": `{"apiVersion":"pinnace.dev/v9","kind":"Target"}`,
		"trailing data":   head + `}{}`,
		"deep":            head + `,"cluster":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
		"huge number":     head + `,"generation":1e400}`,
		"not json":        "cluster: a",
	} {
		var target v1alpha1.Target
		if err := oci.DecodeJSON([]byte(data), v1alpha1.KindTarget, &target, &target.TypeMeta); !errors.Is(err, oci.ErrDamaged) {
			t.Errorf("%s: got %v, want %v", name, err, oci.ErrDamaged)
		}
	}
	var target v1alpha1.Target
	if err := oci.DecodeJSON([]byte(head+`,"cluster":"a [[["}`), v1alpha1.KindTarget, &target, &target.TypeMeta); err != nil {
		t.Errorf("a good document: %v", err)
	}
}

// counted counts what is asked of a repository that, as a layout does, answers tags and bytes apart.
type counted struct {
	oci.Repository
	asked []string
}

func (c *counted) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	c.asked = append(c.asked, "resolve "+reference)
	return c.Repository.Resolve(ctx, reference)
}

func (c *counted) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	c.asked = append(c.asked, "fetch "+desc.Digest.String())
	return c.Repository.Fetch(ctx, desc)
}

func TestRemember(t *testing.T) {
	inner := &counted{Repository: repository(t, oci.NewMemory(), "bundles/web")}
	large := oci.Blob{MediaType: "text/plain", Data: bytes.Repeat([]byte("x"), 1<<20+1)}
	with := artifact
	with.Layers = []oci.Blob{large}
	desc, _, err := oci.Push(t.Context(), inner, with, "one")
	if err != nil {
		t.Fatal(err)
	}
	inner.asked = nil
	repo := oci.Remember(inner)
	for range 3 {
		if got, err := repo.Resolve(t.Context(), "one"); err != nil || got.Digest != desc.Digest {
			t.Fatalf("got %s and %v, want %s", got.Digest, err, desc.Digest)
		}
		if _, _, err := oci.ReadManifest(t.Context(), repo, desc); err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Resolve(t.Context(), "absent"); !errors.Is(err, oci.ErrNotFound) {
			t.Fatalf("absent: %v", err)
		}
	}
	for range 2 {
		if data, err := oci.ReadAll(t.Context(), repo, large.Descriptor(), 2<<20); err != nil || len(data) != len(large.Data) {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
	}
	want := []string{
		"resolve one", "fetch " + desc.Digest.String(), "resolve absent", "resolve absent", "resolve absent",
		"fetch " + large.Descriptor().Digest.String(), "fetch " + large.Descriptor().Digest.String(),
	}
	if diff := cmp.Diff(want, inner.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestLayoutFindsDamagedBlobs(t *testing.T) {
	dir := t.TempDir()
	layout, err := oci.OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	repo := repository(t, layout, "bundles/web")
	if _, _, err := oci.Push(t.Context(), repo, artifact, "current"); err != nil {
		t.Fatal(err)
	}
	layer := artifact.Layers[0].Descriptor()
	path := filepath.Join(dir, "blobs", "sha256", layer.Digest.Encoded())
	if err := os.WriteFile(path, []byte("CONTENT"), 0o600); err != nil {
		t.Fatal(err)
	}
	if exists, err := repo.Exists(t.Context(), layer); err != nil || exists {
		t.Errorf("a damaged blob exists: %v, %v", exists, err)
	}
	if _, err := oci.ReadAll(t.Context(), repo, layer, oci.MaxConfig); !errors.Is(err, oci.ErrDamaged) {
		t.Errorf("read: got %v, want %v", err, oci.ErrDamaged)
	}

	// Copied again from where it is whole, it is whole.
	source := repository(t, oci.NewMemory(), "bundles/web")
	desc, _, err := oci.Push(t.Context(), source, artifact)
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.Copy(t.Context(), source, repo, desc, "current"); err != nil {
		t.Fatal(err)
	}
	if data, err := oci.ReadAll(t.Context(), repo, layer, oci.MaxConfig); err != nil || !bytes.Equal(data, artifact.Layers[0].Data) {
		t.Errorf("after copying: got %q and %v", data, err)
	}
}

func TestLayoutBatch(t *testing.T) {
	dir := t.TempDir()
	layout, err := oci.OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := func() int {
		again, err := oci.OpenLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		tags, err := repository(t, again, "bundles/web").Tags(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(tags)
	}
	outer, inner := oci.Batch(layout), oci.Batch(layout)
	if _, _, err := oci.Push(t.Context(), repository(t, layout, "bundles/web"), artifact, "one", "two"); err != nil {
		t.Fatal(err)
	}
	if err := inner(); err != nil || onDisk() != 0 {
		t.Errorf("within a batch %d tags were written, %v", onDisk(), err)
	}
	if err := outer(); err != nil || onDisk() != 2 {
		t.Errorf("after the batch %d tags are written, %v", onDisk(), err)
	}
	if err := oci.Batch(oci.NewMemory())(); err != nil {
		t.Error(err)
	}
}

func TestLayoutRefusesForeignFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.OpenLayout(dir); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestLayoutSaysThatItsIndexIsDamaged(t *testing.T) {
	dir := t.TempDir()
	if _, err := oci.OpenLayout(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.OpenLayout(dir); !errors.Is(err, oci.ErrDamaged) {
		t.Errorf("got %v, want %v", err, oci.ErrDamaged)
	}
}

func TestOpenRefusesBadPrefixes(t *testing.T) {
	for prefix, want := range map[string]string{
		"https://registry.example.com/fleet": "leave the scheme out",
		"registry.example.com":               "name a path",
		"registry.example.com/Fleet":         "not a valid name",
		"registry.example.com/../fleet":      "not a valid name",
	} {
		if _, err := oci.Open(prefix, oci.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", prefix, err, want)
		}
	}
}

func TestReadAllIsBounded(t *testing.T) {
	repo := repository(t, oci.NewMemory(), "bundles/web")
	if _, _, err := oci.Push(t.Context(), repo, artifact); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.ReadAll(t.Context(), repo, artifact.Layers[0].Descriptor(), 3); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, oci.ErrTooLarge)
	}
}
