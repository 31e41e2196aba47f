package medium_test

import (
	"os"
	"path/filepath"
	"testing"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
)

// What an export takes beside the content itself: a fixed amount for each blob that it carries, and a few bytes for each
// manifest that it leaves out. Counted in bytes, so that a change that makes indexes grow is seen without 2 GiB.
func TestDeltaCostsLittle(t *testing.T) {
	w := newWorld(t, mirrortest.Fleet{Clusters: 1, Bundles: 25, BundleBytes: 500, Images: 1, Layers: 1, LayerBytes: 500})
	site := newServer(t).Registry(t)
	receipt := w.mustImport(t, site, w.export(t, nil, 0)).Receipt
	w.fleet.Revision, w.fleet.Changed = 1, 1
	w.publish(t)
	closure := w.find(t)
	there, err := mirror.Look(t.Context(), site, closure, 0)
	if err != nil {
		t.Fatal(err)
	}
	changed, _ := mirror.Compare(closure, there).Send()
	dir := w.export(t, receipt, 0)
	index := w.open(t, dir).Index()
	info, err := os.Stat(filepath.Join(dir, medium.IndexFile))
	if err != nil {
		t.Fatal(err)
	}
	const (
		framing  = 17_000 // tar headers and padding of the changed blobs, the layout's index.json
		describe = 4_500  // the signed index: the changed entries, keys and signature
		eachKept = 14     // of what is left out: 8 bytes of the digest, base64 twice, and a part of the repository's name
	)
	left := int64(len(closure.Entries) - len(index.Entries))
	if left < 50 {
		t.Fatalf("%d manifests are left out, want more than 50", left)
	}
	if got := index.Bytes() - changed; got > framing {
		t.Errorf("volumes have %d bytes beside the content, at most %d", got, framing)
	}
	if got, most := info.Size(), describe+left*eachKept; got > most {
		t.Errorf("the index has %d bytes for %d manifests left out, at most %d", got, left, most)
	}
	w.mustImport(t, site, dir)
	w.check(t, site, "site-00")
}

// A delta on a delta, by nothing but the earlier exports' indexes; a receiver that was filled in another way, and has no
// receipt, is asked what it holds.
func TestBaseIsAnEarlierExport(t *testing.T) {
	w := newWorld(t, small)
	site := newServer(t).Registry(t)
	dir := w.export(t, nil, 0, "site-00")
	w.mustImport(t, site, dir)
	for revision := 1; revision <= 2; revision++ {
		w.fleet.Revision, w.fleet.Changed = revision, 1
		w.publish(t)
		base, err := w.open(t, dir).Index().Holdings()
		if err != nil {
			t.Fatal(err)
		}
		before := w.open(t, dir)
		dir = t.TempDir()
		index := w.exportOver(t, dir, base, &medium.Base{Digest: before.Digest(), Sequence: before.Index().Sequence}, "site-00")
		// The bundle, the target and the fleet index, with their signatures; the images' tags.
		carried := 0
		for _, entry := range index.Entries {
			if !entry.Held {
				carried++
			}
		}
		if carried != 6 || index.Base == nil || index.Base.Sequence != before.Index().Sequence {
			t.Errorf("revision %d: %d entries are carried over the base %+v, want 6", revision, carried, index.Base)
		}
		forget(t, site)
		w.mustImport(t, site, dir)
		w.check(t, site, "site-00")
	}
}

// forget deletes the receipt.
func forget(t *testing.T, site oci.Registry) {
	t.Helper()
	repo, err := site.Repository(mirror.RepositoryReceipt)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), "current")
	if err == nil {
		err = repo.Delete(t.Context(), desc)
	}
	if err != nil {
		t.Fatal(err)
	}
}
