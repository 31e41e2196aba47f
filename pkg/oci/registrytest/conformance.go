package registrytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Store is an empty oci.Registry under test.
type Store struct {
	oci.Registry
	// Reopen opens the same content anew, as another process would; nil where nothing outlives the process.
	Reopen func(t *testing.T) oci.Registry
	// TornRewrites says that content is absent for a moment while somebody pushes it again. What concurrent writers
	// share is then there before they start.
	TornRewrites bool
}

// manyTags is more than one page of every registry that we know: distribution and Debian's answer with 1,000 at most.
const manyTags = 1001

// Conformance holds a store to the contract of oci.Registry and oci.Repository.
func Conformance(t *testing.T, store Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"push, resolve and fetch", testRoundTrip},
		{"absent things are not found", testNotFound},
		{"damaged content is refused", testDamaged},
		{"a tag moves", testTagMoves},
		{"pushing again is no error", testIdempotent},
		{"repositories are apart", testApart},
		{"all tags are listed", testManyTags},
		{"what is attached is listed and copied", testAttached},
		{"delete", testDelete},
		{"concurrent pushes", testConcurrent},
		{"names are checked", testNames},
		{"content outlives the process", testReopen},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, store) })
	}
}

func sample(n int) oci.Artifact {
	return oci.Artifact{
		Type:        "application/vnd.example.v1",
		Layers:      []oci.Blob{{MediaType: "text/plain", Data: fmt.Appendf(nil, "layer %d", n)}},
		Annotations: map[string]string{"org.example.n": fmt.Sprint(n)},
	}
}

func repository(t *testing.T, reg oci.Registry, name string) oci.Repository {
	t.Helper()
	repo, err := reg.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func push(t *testing.T, repo oci.Repository, artifact oci.Artifact, tags ...string) ocispec.Descriptor {
	t.Helper()
	desc, _, err := oci.Push(t.Context(), repo, artifact, tags...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// wantResolved checks what a reference resolves to. Registries answer with media type, digest and size.
func wantResolved(t *testing.T, repo oci.Repository, reference string, want ocispec.Descriptor) {
	t.Helper()
	got, err := repo.Resolve(t.Context(), reference)
	if err != nil {
		t.Errorf("resolve %s: %v", reference, err)
		return
	}
	want = ocispec.Descriptor{MediaType: want.MediaType, Digest: want.Digest, Size: want.Size}
	if diff := cmp.Diff(want, ocispec.Descriptor{MediaType: got.MediaType, Digest: got.Digest, Size: got.Size}); diff != "" {
		t.Errorf("resolve %s (-want +got):\n%s", reference, diff)
	}
}

func wantContent(t *testing.T, repo oci.Repository, blob oci.Blob) {
	t.Helper()
	got, err := oci.ReadAll(t.Context(), repo, blob.Descriptor(), 1<<20)
	if err != nil || !bytes.Equal(got, blob.Data) {
		t.Errorf("read %s: got %q (%v), want %q", blob.Descriptor().Digest, got, err, blob.Data)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func testRoundTrip(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/round-trip")
	artifact := sample(1)
	desc := push(t, repo, artifact, "v1", "latest")
	for _, reference := range []string{"v1", "latest", desc.Digest.String()} {
		wantResolved(t, repo, reference, desc)
	}
	for _, blob := range append([]oci.Blob{artifact.Manifest()}, artifact.Layers...) {
		wantContent(t, repo, blob)
		if ok, err := repo.Exists(t.Context(), blob.Descriptor()); !ok || err != nil {
			t.Errorf("exists %s: got %v (%v), want true", blob.MediaType, ok, err)
		}
	}
}

func testNotFound(t *testing.T, store Store) {
	full := repository(t, store, "conformance/not-found")
	push(t, full, sample(1), "v1")
	absent := sample(404)
	for _, repo := range []oci.Repository{full, repository(t, store, "conformance/never-made")} {
		_, err := repo.Resolve(t.Context(), "absent")
		wantError(t, "resolve a tag", err, oci.ErrNotFound)
		_, err = repo.Resolve(t.Context(), absent.Descriptor().Digest.String())
		wantError(t, "resolve a digest", err, oci.ErrNotFound)
		for _, blob := range []oci.Blob{absent.Manifest(), absent.Layers[0]} {
			_, err = oci.ReadAll(t.Context(), repo, blob.Descriptor(), 1<<20)
			wantError(t, "fetch "+blob.MediaType, err, oci.ErrNotFound)
			if ok, err := repo.Exists(t.Context(), blob.Descriptor()); ok || err != nil {
				t.Errorf("exists %s: got %v (%v), want false", blob.MediaType, ok, err)
			}
		}
		wantError(t, "tag", repo.Tag(t.Context(), absent.Manifest().Descriptor(), "v2"), oci.ErrNotFound)
	}
	tags, err := repository(t, store, "conformance/never-made").Tags(t.Context())
	if len(tags) != 0 || err != nil {
		t.Errorf("tags of an absent repository: got %v (%v), want none", tags, err)
	}
}

func testDamaged(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/damaged")
	artifact := sample(1)
	manifest := artifact.Manifest().Descriptor()
	wrongSize := artifact.Layers[0].Descriptor()
	wrongSize.Size++
	for what, err := range map[string]error{
		"blob with wrong bytes":     repo.Push(t.Context(), artifact.Layers[0].Descriptor(), []byte("other 1")),
		"blob with wrong size":      repo.Push(t.Context(), wrongSize, artifact.Layers[0].Data),
		"manifest with wrong bytes": repo.Push(t.Context(), manifest, sample(2).Manifest().Data, "v1"),
	} {
		wantError(t, what, err, oci.ErrDamaged)
	}
	_, err := repo.Resolve(t.Context(), "v1")
	wantError(t, "resolve what was refused", err, oci.ErrNotFound)
}

func testTagMoves(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/tag-moves")
	first := push(t, repo, sample(1), "current", "gen-1")
	second := push(t, repo, sample(2), "gen-2")
	wantResolved(t, repo, "current", first)
	if err := repo.Tag(t.Context(), second, "current"); err != nil {
		t.Fatal(err)
	}
	wantResolved(t, repo, "current", second)
	wantResolved(t, repo, "gen-1", first)
	push(t, repo, sample(1), "current")
	wantResolved(t, repo, "current", first)
}

func testIdempotent(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/idempotent")
	artifact := sample(1)
	desc := push(t, repo, artifact, "v1")
	for _, blob := range append([]oci.Blob{artifact.Manifest()}, artifact.Layers...) {
		if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
			t.Errorf("push %s again: %v", blob.MediaType, err)
		}
	}
	_, created, err := oci.Push(t.Context(), repo, artifact, "v1")
	if created || err != nil {
		t.Errorf("push the artifact again: got created %v (%v), want false", created, err)
	}
	wantResolved(t, repo, "v1", desc)
}

func testApart(t *testing.T, store Store) {
	one, two := repository(t, store, "conformance/apart"), repository(t, store, "conformance/apart/below")
	first, second := push(t, one, sample(1), "v1"), push(t, two, sample(2), "v1")
	wantResolved(t, one, "v1", first)
	wantResolved(t, two, "v1", second)
	for _, repo := range []oci.Repository{one, two} {
		if tags, err := repo.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"v1"}) {
			t.Errorf("tags of %s: got %v (%v), want [v1]", repo, tags, err)
		}
	}
}

func testManyTags(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/many-tags")
	desc := push(t, repo, sample(1))
	want := make([]string, manyTags)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(8)
	for i := range want {
		want[i] = fmt.Sprintf("gen-%04d", i)
		group.Go(func() error { return repo.Tag(ctx, desc, want[i]) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	got, err := repo.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// testDelete uses artifacts of its own: an OCI layout keeps a manifest that another repository has too.
func testDelete(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/delete")
	kept, deleted := push(t, repo, sample(2001), "kept"), push(t, repo, sample(2002), "deleted")
	err := repo.Delete(t.Context(), deleted)
	if errors.Is(err, oci.ErrUnsupported) {
		t.Logf("%s does not delete", store)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"deleted", deleted.Digest.String()} {
		_, err := repo.Resolve(t.Context(), reference)
		wantError(t, "resolve what was deleted", err, oci.ErrNotFound)
	}
	wantError(t, "delete again", repo.Delete(t.Context(), deleted), oci.ErrNotFound)
	wantResolved(t, repo, "kept", kept)
	wantResolved(t, repo, "deleted", push(t, repo, sample(2002), "deleted"))
}

func testConcurrent(t *testing.T, store Store) {
	const writers = 16
	repo := repository(t, store, "conformance/concurrent")
	if store.TornRewrites {
		push(t, repo, sample(1000), "shared")
	}
	group, ctx := errgroup.WithContext(t.Context())
	for i := range writers {
		group.Go(func() error { return pushAll(ctx, repo, i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range writers {
		wantResolved(t, repo, fmt.Sprintf("v%d", i), sample(i).Descriptor())
		wantContent(t, repo, sample(i).Layers[0])
	}
	current, err := repo.Resolve(t.Context(), "current")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.ReadManifest(t.Context(), repo, current); err != nil {
		t.Errorf("the tag that all moved: %v", err)
	}
}

// pushAll pushes an artifact of its own and one that all writers share.
func pushAll(ctx context.Context, repo oci.Repository, i int) error {
	if _, _, err := oci.Push(ctx, repo, sample(i), fmt.Sprintf("v%d", i), "current"); err != nil {
		return err
	}
	_, _, err := oci.Push(ctx, repo, sample(1000), "shared")
	return err
}

func testNames(t *testing.T, store Store) {
	for _, name := range []string{"", "/", "UPPER", "a//b", "../escape", "a/../b", "a b", "a:b", "-a"} {
		if _, err := store.Repository(name); err == nil {
			t.Errorf("repository %q was accepted", name)
		}
	}
	repo := repository(t, store, "conformance/names")
	for _, d := range []digest.Digest{"", "sha256:short", "sha256:../../../../etc/passwd", "../escape"} {
		desc := ocispec.Descriptor{MediaType: "text/plain", Digest: d, Size: 4}
		if _, err := oci.ReadAll(t.Context(), repo, desc, 1<<20); err == nil {
			t.Errorf("digest %q was accepted for reading", d)
		}
		if err := repo.Push(t.Context(), desc, []byte("evil")); err == nil {
			t.Errorf("digest %q was accepted for writing", d)
		}
	}
}

func testReopen(t *testing.T, store Store) {
	repo := repository(t, store, "conformance/reopen")
	artifact := sample(1)
	desc := push(t, repo, artifact, "v1", "v2")
	if store.Reopen == nil {
		t.Logf("%s does not outlive the process", store)
		return
	}
	repo = repository(t, store.Reopen(t), "conformance/reopen")
	wantResolved(t, repo, "v1", desc)
	wantResolved(t, repo, desc.Digest.String(), desc)
	wantContent(t, repo, artifact.Layers[0])
	if tags, err := repo.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"v1", "v2"}) {
		t.Errorf("tags: got %v (%v), want [v1 v2]", tags, err)
	}
}
