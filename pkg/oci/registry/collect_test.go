package registry_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

func content(text string) oci.Artifact {
	return oci.Artifact{Type: "application/vnd.example.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte(text)}}}
}

func push(t *testing.T, repo oci.Repository, artifact oci.Artifact, tags ...string) ocispec.Descriptor {
	t.Helper()
	desc, _, err := oci.Push(t.Context(), repo, artifact, tags...)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func there(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) bool {
	t.Helper()
	ok, err := repo.Exists(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// What a tag, an index or a signature's tag leads to stays, and nothing else.
func TestCollect(t *testing.T) {
	root := t.TempDir()
	server := start(t, registry.Options{Root: root})
	repo, other := repository(t, server.Addr, "a", oci.Options{}), repository(t, server.Addr, "b", oci.Options{})
	tagged := push(t, repo, content("tagged"), "v1")
	signature := push(t, repo, content("signature"), oci.SignatureTag(tagged.Digest))
	platform := push(t, repo, content("platform"))
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{platform},
	})
	if err != nil {
		t.Fatal(err)
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: index}
	if err := repo.Push(t.Context(), blob.Descriptor(), index, "index"); err != nil {
		t.Fatal(err)
	}
	untagged := push(t, repo, content("untagged"))
	dangling := push(t, repo, content("dangling"), oci.SignatureTag(untagged.Digest))
	shared := content("shared")
	push(t, other, shared, "v1")
	for _, layer := range shared.Layers {
		if err := repo.Push(t.Context(), layer.Descriptor(), layer.Data); err != nil {
			t.Fatal(err)
		}
	}
	orphan := oci.Blob{MediaType: "text/plain", Data: []byte("orphan")}
	if err := repo.Push(t.Context(), orphan.Descriptor(), orphan.Data); err != nil {
		t.Fatal(err)
	}

	// Within the grace nothing goes, and a dry run deletes nothing.
	for _, opts := range []registry.CollectOptions{{Now: time.Now()}, {Grace: -1, DryRun: true, Now: time.Now()}} {
		found, err := registry.Collect(t.Context(), root, opts)
		if err != nil {
			t.Fatal(err)
		}
		if !opts.DryRun && (len(found.Manifests) > 0 || found.Blobs > 0 || found.Kept == 0) {
			t.Errorf("within the grace: got %+v, want nothing but kept", found)
		}
		if !there(t, repo, untagged) || !there(t, repo, orphan.Descriptor()) {
			t.Fatal("something is gone")
		}
	}

	found, err := registry.Collect(t.Context(), root, registry.CollectOptions{Grace: -1, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"fleet/a@" + dangling.Digest.String(), "fleet/a@" + untagged.Digest.String()}
	slices.Sort(want)
	if !slices.Equal(found.Manifests, want) {
		t.Errorf("manifests: got %v, want %v", found.Manifests, want)
	}
	for _, desc := range []ocispec.Descriptor{tagged, signature, platform, content("tagged").Layers[0].Descriptor(), content("platform").Layers[0].Descriptor()} {
		if !there(t, repo, desc) {
			t.Errorf("%s is gone", desc.Digest)
		}
	}
	if !there(t, other, shared.Layers[0].Descriptor()) {
		t.Error("a blob that another repository needs is gone")
	}
	for _, desc := range []ocispec.Descriptor{untagged, dangling, orphan.Descriptor(), content("untagged").Layers[0].Descriptor()} {
		if there(t, repo, desc) {
			t.Errorf("%s is still there", desc.Digest)
		}
	}
	// What went can come again.
	push(t, repo, content("untagged"), "again")
}

// A registry collects while it serves, and leaves alone what a client asked for.
func TestCollectWhileServing(t *testing.T) {
	server := start(t, registry.Options{Root: t.TempDir(), CollectEvery: 10 * time.Millisecond, CollectGrace: 300 * time.Millisecond})
	repo := repository(t, server.Addr, "a", oci.Options{})
	orphan, asked := oci.Blob{Data: []byte("orphan")}, oci.Blob{Data: []byte("asked for")}
	for _, blob := range []oci.Blob{orphan, asked} {
		if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
			t.Fatal(err)
		}
	}
	// Asking for one keeps it; the other is looked at by way of a mount only once its time must be over.
	deadline := time.Now().Add(20 * time.Second)
	for started := time.Now(); time.Since(started) < time.Second; time.Sleep(20 * time.Millisecond) {
		if !there(t, repo, asked.Descriptor()) {
			t.Fatal("a blob that a client asks for again and again is gone")
		}
	}
	for there(t, repo, orphan.Descriptor()) {
		if time.Now().After(deadline) {
			t.Fatal("the orphan is still there")
		}
		time.Sleep(500 * time.Millisecond)
	}
	push(t, repo, content("after"), "v1")
}

func TestCollectAnEmptyFolder(t *testing.T) {
	found, err := registry.Collect(t.Context(), t.TempDir(), registry.CollectOptions{Now: time.Now()})
	if err != nil || len(found.Manifests)+found.Blobs != 0 {
		t.Errorf("got %+v, %v", found, err)
	}
}

// An upstream is asked for what isn't here, and what was pulled stays when it is away.
func TestUpstream(t *testing.T) {
	upstream, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	desc := push(t, repository(t, upstream.Addr, "a", oci.Options{}), content("far"), "v1")
	cache := start(t, registry.Options{Root: t.TempDir(), Upstream: &registry.Upstream{URL: "http://" + upstream.Addr}})
	repo := repository(t, cache.Addr, "a", oci.Options{})
	got, err := repo.Resolve(t.Context(), "v1")
	if err != nil || got.Digest != desc.Digest {
		t.Fatalf("got %s, %v, want %s", got.Digest, err, desc.Digest)
	}
	manifest, _, err := oci.ReadManifest(t.Context(), repo, got)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oci.ReadAll(t.Context(), repo, manifest.Layers[0], 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.Push(t.Context(), repo, content("pushed"), "v2"); err == nil {
		t.Error("it was pushed to")
	}
	if err := upstream.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.ReadManifest(t.Context(), repo, got); err != nil {
		t.Errorf("without the upstream: %v", err)
	}
}

// An upload goes on after the registry was started anew.
func TestSecretIsKept(t *testing.T) {
	root := t.TempDir()
	first, err := registry.New(registry.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	before := secretOf(t, root)
	second, err := registry.New(registry.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if after := secretOf(t, root); before == "" || after != before {
		t.Errorf("secret %q, and then %q", before, after)
	}
}

func TestTokenOptions(t *testing.T) {
	for name, opts := range map[string]registry.Options{
		"no issuer":         {Token: &registry.Token{Realm: "https://auth.example/token", Service: "registry", CertFile: "x"}},
		"no keys":           {Token: &registry.Token{Realm: "https://auth.example/token", Service: "registry", Issuer: "auth"}},
		"users too":         {Htpasswd: "users", Token: &registry.Token{}},
		"collect in memory": {CollectEvery: time.Hour},
	} {
		if handler, err := registry.New(opts); err == nil {
			_ = handler.Close()
			t.Errorf("%s was accepted", name)
		}
	}
}
