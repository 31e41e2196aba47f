package publish

import (
	"os"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

// What doesn't fit into memory waits on the disk, is published all the same, and nothing of it stays.
func TestBuiltBundlesWaitOnTheDisk(t *testing.T) {
	dir, folder := write(t, t.TempDir(), nil), t.TempDir()
	opts := options(t, dir, releaseSigner(t))
	loaded, err := Load(t.Context(), opts.LoadOptions)
	if err != nil {
		t.Fatal(err)
	}
	p := newPublisher(oci.NewMemory(), opts)
	p.shelf.folder, p.shelf.limit = folder, 1
	built, err := p.planAndBuild(t.Context(), loaded, v1alpha1.FleetIndex{})
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := os.ReadDir(p.shelf.own)
	if err != nil || len(waiting) != 3 || len(p.shelf.memory) != 0 {
		t.Errorf("%d wait on the disk and %d in memory, %v; want all 3 on the disk", len(waiting), len(p.shelf.memory), err)
	}
	if err := p.pushBundles(t.Context(), built); err != nil {
		t.Fatal(err)
	}
	for _, v := range built.sorted() {
		repo, err := p.registry.Repository("bundles/" + v.index.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Resolve(t.Context(), v.index.Digest); err != nil || v.action != target.Created {
			t.Errorf("%s: %s, %v", v.index.Name, v.action, err)
		}
	}
	p.shelf.close()
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The same content of several variants is kept once.
func TestShelfKeepsContentOnce(t *testing.T) {
	shelf := shelf{limit: 10}
	for _, digest := range []string{"sha256:a", "sha256:a", "sha256:b"} {
		if err := shelf.put(digest, []byte("12345")); err != nil {
			t.Fatal(err)
		}
	}
	if shelf.held != 10 || shelf.own != "" {
		t.Errorf("%d bytes are held, folder %q", shelf.held, shelf.own)
	}
}
