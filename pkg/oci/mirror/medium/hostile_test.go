package medium_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

var tiny = mirrortest.Fleet{Clusters: 1, Bundles: 1, BundleBytes: 3000, Images: 1, Layers: 1, LayerBytes: 5000}

// resign writes an index that was changed and signed again.
func (w *world) resign(t *testing.T, dir string, change func(index *medium.Index), signer *signing.Signer) {
	t.Helper()
	index := *w.open(t, dir).Index()
	change(&index)
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if data, err = archive.Gzip(data); err != nil {
		t.Fatal(err)
	}
	w.writeIndex(t, dir, data, signer)
}

func (w *world) writeIndex(t *testing.T, dir string, payload []byte, signer *signing.Signer) {
	t.Helper()
	envelope, err := signer.SignEnvelope(t.Context(), mirror.MediaTypeIndex, payload)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, medium.IndexFile), envelope, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIndexByAStranger(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	stranger, err := signingtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	w.resign(t, dir, func(*medium.Index) {}, stranger)
	_, err = medium.Open(t.Context(), []string{dir}, w.trust)
	if refused := (*signing.Error)(nil); !errors.As(err, &refused) {
		t.Errorf("got %v, want a refusal", err)
	}
}

// Even an index that the right key signed says nothing that is impossible, and reaches no place that isn't its own.
func TestImpossibleIndexes(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	original, err := os.ReadFile(filepath.Join(dir, medium.IndexFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*medium.Index){
		"a volume outside":          func(x *medium.Index) { x.Volumes[0].Name = "../volume-0001.tar" },
		"an absolute volume":        func(x *medium.Index) { x.Volumes[0].Name = "/etc/passwd.tar" },
		"a volume of another drive": func(x *medium.Index) { x.Volumes[0].Name = "C:volume.tar" },
		"a volume twice": func(x *medium.Index) {
			x.Volumes = append(x.Volumes, medium.Volume{Name: x.Volumes[0].Name, Digest: x.Volumes[0].Digest})
		},
		"a blob before the volume": func(x *medium.Index) { x.Volumes[0].Blobs[0].Offset = -512 },
		"a blob behind the volume": func(x *medium.Index) { x.Volumes[0].Blobs[0].Offset = 1 << 40 },
		"offsets that overflow":    func(x *medium.Index) { x.Volumes[0].Blobs[0].Offset = 1<<63 - 1 },
		"a negative size":          func(x *medium.Index) { x.Volumes[0].Blobs[0].Size = -1 },
		"a wrong size":             func(x *medium.Index) { x.Entries[0].Blobs[0].Size++ },
		"a blob twice":             func(x *medium.Index) { x.Volumes[0].Blobs[1].Digest = x.Volumes[0].Blobs[0].Digest },
		"no digest":                func(x *medium.Index) { x.Volumes[0].Blobs[0].Digest = "sha256:../../etc" },
		"a blob from nowhere":      func(x *medium.Index) { x.Entries[0].Blobs[0].Digest = "sha256:" + mirrorDigest },
		"the receipt":              func(x *medium.Index) { x.Entries[0].Repository = mirror.RepositoryReceipt },
		"status in a fleet":        func(x *medium.Index) { x.Entries[0].Repository = "status/site-00" },
		"a fleet in status":        func(x *medium.Index) { x.Content = medium.ContentStatus },
		"a tag with a slash":       func(x *medium.Index) { x.Entries[0].Tags = []string{"../../current"} },
		"an empty entry":           func(x *medium.Index) { x.Entries[0] = nil },
		"a foreign media type":     func(x *medium.Index) { x.Entries[0].MediaType = "text/html" },
		"a huge manifest":          func(x *medium.Index) { x.Entries[0].Size = 1 << 40 },
		"no stream":                func(x *medium.Index) { x.Stream = "../up" },
		"another kind":             func(x *medium.Index) { x.Kind = mirror.KindHave },
		"kept that is none":        func(x *medium.Index) { x.Kept = map[string]string{"bundles/a": "AAAA"} },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, medium.IndexFile), original, 0o600); err != nil {
				t.Fatal(err)
			}
			w.resign(t, dir, change, w.signer)
			if _, err := medium.Open(t.Context(), []string{dir}, w.trust); !errors.Is(err, oci.ErrDamaged) {
				t.Errorf("got %v, want %v", err, oci.ErrDamaged)
			}
		})
	}
}

const mirrorDigest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestIndexBomb(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	member, err := archive.Gzip(bytes.Repeat([]byte{' '}, 1<<20)) // gzip files may follow one another
	if err != nil {
		t.Fatal(err)
	}
	w.writeIndex(t, dir, bytes.Repeat(member, medium.MaxIndex>>20+1), w.signer)
	if _, err := medium.Open(t.Context(), []string{dir}, w.trust); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, oci.ErrTooLarge)
	}
}

// A volume that is a link isn't opened.
func TestVolumeIsALink(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	volume := filepath.Join(dir, "volume-0001.tar")
	if err := errors.Join(os.Rename(volume, volume+".real"), os.Symlink(volume+".real", volume)); err != nil {
		t.Fatal(err)
	}
	if _, err := medium.Open(t.Context(), []string{dir}, w.trust); !errors.Is(err, oci.ErrDamaged) {
		t.Errorf("got %v, want %v", err, oci.ErrDamaged)
	}
}

// Whatever a volume's archive holds beside what the index names, verify refuses it, and import doesn't even look.
func TestHostileVolumes(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	volume := filepath.Join(dir, "volume-0001.tar")
	original, err := os.ReadFile(volume)
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]tar.Header{
		"path traversal": {Name: "../../etc/cron.d/evil", Typeflag: tar.TypeReg, Mode: 0o644},
		"absolute path":  {Name: "/etc/cron.d/evil", Typeflag: tar.TypeReg, Mode: 0o644},
		"symbolic link":  {Name: "blobs/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		"hard link":      {Name: "blobs/link", Typeflag: tar.TypeLink, Linkname: "oci-layout"},
		"device":         {Name: "blobs/device", Typeflag: tar.TypeChar},
		"duplicate":      {Name: "oci-layout", Typeflag: tar.TypeReg, Mode: 0o644},
		"stranger":       {Name: "blobs/sha256/" + mirrorDigest, Typeflag: tar.TypeReg, Mode: 0o644},
		"endless":        {Name: "blobs/sha256/" + mirrorDigest, Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 40},
	} {
		t.Run(name, func(t *testing.T) {
			var evil bytes.Buffer
			if err := tar.NewWriter(&evil).WriteHeader(&header); err != nil {
				t.Fatal(err)
			}
			// In place of the volume's last file, so that sizes stay.
			hostile := bytes.Clone(original)
			at := bytes.LastIndex(hostile, []byte("index.json\x00"))
			copy(hostile[at:], evil.Bytes())
			if err := os.WriteFile(volume, hostile, 0o600); err != nil {
				t.Fatal(err)
			}
			errs := w.open(t, dir).Verify(t.Context(), nil)
			damaged := (*medium.VolumeError)(nil)
			if len(errs) != 1 || !errors.As(errs[0], &damaged) || damaged.Volume != "volume-0001.tar" {
				t.Errorf("verify: got %v, want the volume named", errs)
			}
		})
	}
	site := newServer(t).Registry(t)
	w.mustImport(t, site, dir) // the blobs themselves are whole
	w.check(t, site, "site-00")
}

// One bit, in each kind of file: the index, a manifest, a config, a layer, a signature, an index.json, padding.
func TestOneBit(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	index := w.open(t, dir).Index()
	volume := filepath.Join(dir, "volume-0001.tar")
	original, err := os.ReadFile(volume)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(t *testing.T, at int64) {
		t.Helper()
		changed := bytes.Clone(original)
		changed[at] ^= 1
		if err := os.WriteFile(volume, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if errs := w.open(t, dir).Verify(t.Context(), nil); len(errs) != 1 || !strings.Contains(errs[0].Error(), "volume-0001.tar") {
			t.Errorf("verify: got %v, want the volume named", errs)
		}
	}
	kinds := map[mirror.Kind]bool{}
	for _, entry := range index.Entries {
		if kinds[entry.Kind] {
			continue
		}
		kinds[entry.Kind] = true
		for _, blob := range append(entry.Blobs, mirror.Blob{Digest: entry.Digest, Size: entry.Size}) {
			t.Run(string(entry.Kind)+" "+blob.Digest.Encoded()[:8], func(t *testing.T) {
				for _, placed := range index.Volumes[0].Blobs {
					if placed.Digest == blob.Digest {
						flip(t, placed.Offset+placed.Size/2)
					}
				}
				w.refuseDamage(t, dir, entry)
			})
		}
	}
	flip(t, 3)                              // a tar's header
	flip(t, int64(len(original))-1)         // behind its end
	flip(t, index.Volumes[0].Size-1024-600) // index.json or its padding
	if err := os.WriteFile(volume, original, 0o600); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(filepath.Join(dir, medium.IndexFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{len(signed) / 4, len(signed) / 2, len(signed) - 20} {
		changed := bytes.Clone(signed)
		changed[at] ^= 1
		if err := os.WriteFile(filepath.Join(dir, medium.IndexFile), changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := medium.Open(t.Context(), []string{dir}, w.trust); err == nil {
			t.Errorf("an index with bit %d flipped was opened", at)
		}
	}
}

// refuseDamage imports a damaged volume: what is damaged never arrives, no tag that needs it moves, and the volume is
// named, whether it was found before or on the way.
func (w *world) refuseDamage(t *testing.T, dir string, entry *mirror.Entry) {
	t.Helper()
	server := newServer(t)
	result, err := w.importTo(t, server.Registry(t), dir)
	switch {
	case err != nil:
		if refused := (*medium.PreflightError)(nil); !errors.As(err, &refused) || !slices.Equal(refused.Damaged, []string{"volume-0001.tar"}) ||
			!errors.Is(err, oci.ErrDamaged) {
			t.Errorf("damaged %s: got %v, want a refusal that names the volume", entry.Kind, err)
		}
		if n := server.Count(registrytest.Match{Method: "PUT"}); n != 0 {
			t.Errorf("a refused import wrote %d times", n)
		}
	case result.Complete() || len(result.Damaged) != 1 || result.Damaged[0] != "volume-0001.tar":
		t.Errorf("damaged %s: complete %v, damaged volumes %v", entry.Kind, result.Complete(), result.Damaged)
	case entry.Kind == mirror.KindFleet:
		if !slices.ContainsFunc(result.Held, func(p mirror.Problem) bool { return p.Subject == "fleet:current" }) {
			t.Errorf("held are %v, want fleet:current", result.Held)
		}
	case checkCluster(t.Context(), server.Registry(t), w.verifier, "site-00") == nil:
		t.Errorf("damaged %s: the target is current, and everything it needs is there", entry.Kind)
	}
}

// What the site's policy refuses isn't imported, however well the index is signed: each artifact is named, and nothing is
// written.
func TestWhatThePolicyRefusesIsNotImported(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	stranger, err := signingtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	site := newServer(t)
	opts := w.importOptions(w.open(t, dir), site.Registry(t))
	if opts.Verifier, err = signing.NewKeyVerifier("release", stranger.PublicKey()); err != nil {
		t.Fatal(err)
	}
	_, err = medium.Import(t.Context(), opts)
	refused := (*medium.PreflightError)(nil)
	if !errors.As(err, &refused) || !errors.Is(err, oci.ErrNotVerified) {
		t.Fatalf("got %v, want a refusal by the policy", err)
	}
	var got []string
	for _, one := range refused.Refused {
		name, _, _ := strings.Cut(one.Subject, "@")
		got = append(got, name)
	}
	if want := []string{"bundles/bundle-000", "fleet", "targets/site-00"}; !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
	if n := site.Count(registrytest.Match{Method: "PUT"}) + site.Count(registrytest.Match{Method: "POST"}); n != 0 {
		t.Errorf("%d writes, want none", n)
	}
}

// A cut off volume is found before anything is written.
func TestCutOffVolume(t *testing.T) {
	w := newWorld(t, tiny)
	dir := w.export(t, nil, 0)
	if err := os.Truncate(filepath.Join(dir, "volume-0001.tar"), 1000); err != nil {
		t.Fatal(err)
	}
	_, err := w.importTo(t, newServer(t).Registry(t), dir)
	if refused := (*medium.PreflightError)(nil); !errors.As(err, &refused) || len(refused.Volumes) != 1 {
		t.Errorf("got %v, want the volume named", err)
	}
}

func TestTooLittleSpace(t *testing.T) {
	w := newWorld(t, tiny)
	opts := w.importOptions(w.open(t, w.export(t, nil, 0)), newServer(t).Registry(t))
	opts.Free = 100
	_, err := medium.Import(t.Context(), opts)
	if refused := (*medium.PreflightError)(nil); !errors.As(err, &refused) || refused.Need <= 100 {
		t.Errorf("got %v, want a refusal for space", err)
	}
}

// A medium is only read.
func TestMediumIsOnlyRead(t *testing.T) {
	w := newWorld(t, tiny)
	m := w.open(t, w.export(t, nil, 0))
	repo, err := m.Repository("fleet")
	if err != nil {
		t.Fatal(err)
	}
	desc := m.Index().Entries[0].Descriptor()
	for _, err := range []error{repo.Push(t.Context(), desc, nil), repo.Tag(t.Context(), desc, "x"), repo.Delete(t.Context(), desc)} {
		if !errors.Is(err, oci.ErrUnsupported) {
			t.Errorf("got %v, want %v", err, oci.ErrUnsupported)
		}
	}
	if _, err := repo.Fetch(t.Context(), oci.Blob{Data: []byte("absent")}.Descriptor()); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("got %v, want %v", err, oci.ErrNotFound)
	}
}
