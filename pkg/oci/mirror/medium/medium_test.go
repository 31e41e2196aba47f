package medium_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// world is a fleet on a registry that no site reaches, with its images on another.
type world struct {
	fleet          mirrortest.Fleet
	centre, images *registrytest.Server
	signer         *signing.Signer
	verifier       *signing.Verifier
	exports        int
}

func newServer(t *testing.T) *registrytest.Server {
	t.Helper()
	return registrytest.New(t)
}

// newFolderServer has a catalog, which a registry in memory has not.
func newFolderServer(t *testing.T) *registrytest.Server {
	t.Helper()
	handler, err := registry.New(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	return registrytest.Wrap(t, handler)
}

func newWorld(t *testing.T, fleet mirrortest.Fleet) *world {
	t.Helper()
	signer, err := signingtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signing.NewKeyVerifier("release", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fleet: fleet, centre: newServer(t), images: newServer(t), signer: signer, verifier: verifier}
	w.fleet.ImageHost, w.fleet.Now = w.images.Addr, now
	w.publish(t)
	return w
}

func (w *world) host(host string) (oci.Registry, error) {
	return oci.OpenHost(host, oci.Options{PlainHTTP: true})
}

func (w *world) publish(t *testing.T) {
	t.Helper()
	images, err := w.host(w.images.Addr)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := w.fleet.PushImages(t.Context(), images, w.signer.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Publish(t.Context(), w.centre.Registry(t), digests, w.signer.Sign); err != nil {
		t.Fatal(err)
	}
}

func (w *world) trust(_ context.Context, payloadType string, envelope []byte) ([]byte, []string, error) {
	payload, err := signing.OpenEnvelope(w.signer.PublicKey(), payloadType, envelope)
	return payload, []string{"release"}, err
}

// export exports what the clusters need and have not.
func (w *world) export(t *testing.T, have []byte, volumeSize int64, clusters ...string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := w.exportTo(t, dir, have, volumeSize, clusters...); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (w *world) find(t *testing.T, clusters ...string) *mirror.Closure {
	t.Helper()
	from := mirror.From{Registry: w.centre.Registry(t), Host: w.host, Verifier: w.verifier}
	closure, err := mirror.Find(t.Context(), from, mirror.Selection{Clusters: clusters})
	if err != nil {
		t.Fatal(err)
	}
	return closure
}

func (w *world) exportTo(t *testing.T, dir string, have []byte, volumeSize int64, clusters ...string) (*medium.Index, error) {
	t.Helper()
	var holdings *mirror.Holdings
	if have != nil {
		payload, err := mirror.UnwrapUnsafe(have)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := mirror.DecodeHave(payload)
		if err != nil {
			t.Fatal(err)
		}
		if holdings, err = decoded.Holdings(); err != nil {
			t.Fatal(err)
		}
	}
	return w.exportWith(t, dir, holdings, nil, volumeSize, clusters...)
}

// exportOver exports what a base leaves over.
func (w *world) exportOver(t *testing.T, dir string, holdings *mirror.Holdings, base *medium.Base, clusters ...string) *medium.Index {
	t.Helper()
	index, err := w.exportWith(t, dir, holdings, base, 0, clusters...)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func (w *world) exportWith(t *testing.T, dir string, holdings *mirror.Holdings, base *medium.Base, volumeSize int64, clusters ...string) (*medium.Index, error) {
	t.Helper()
	w.exports++
	return medium.Export(t.Context(), medium.ExportOptions{
		Closure: w.find(t, clusters...), Open: mirror.Opener(w.centre.Registry(t), w.host), Dir: dir, Have: holdings, Base: base, VolumeSize: volumeSize,
		Validity: 24 * time.Hour, Sequence: int64(w.exports), Sign: w.signer.SignEnvelope, Now: now, Engine: transfer.New(transfer.Options{}),
	})
}

func (w *world) open(t *testing.T, dirs ...string) *medium.Medium {
	t.Helper()
	m, err := medium.Open(t.Context(), dirs, w.trust)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func (w *world) importTo(t *testing.T, to oci.Registry, dirs ...string) (*medium.Result, error) {
	t.Helper()
	return medium.Import(t.Context(), w.importOptions(w.open(t, dirs...), to))
}

func (w *world) importOptions(m *medium.Medium, to oci.Registry) medium.ImportOptions {
	return medium.ImportOptions{
		Medium: m, To: to, Verifier: w.verifier, Free: -1, Sign: w.signer.SignEnvelope, Now: now, Engine: transfer.New(transfer.Options{}),
	}
}

func (w *world) mustImport(t *testing.T, to oci.Registry, dirs ...string) *medium.Result {
	t.Helper()
	result, err := w.importTo(t, to, dirs...)
	if err != nil {
		t.Fatal(err)
	}
	if !result.Complete() {
		t.Fatalf("incomplete: held %v, first failure %v", result.Held, result.Err)
	}
	return result
}

// check reads the site as its agent does.
func (w *world) check(t *testing.T, site oci.Registry, cluster string) {
	t.Helper()
	if err := checkCluster(t.Context(), site, w.verifier, cluster); err != nil {
		t.Error(err)
	}
}

func checkCluster(ctx context.Context, site oci.Registry, verifier *signing.Verifier, cluster string) error {
	name := v1alpha1.TargetRepository(cluster)
	repo, err := site.Repository(name)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return err
	}
	verified, err := verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return err
	}
	target, err := oci.FetchTarget(ctx, repo, verified)
	if err != nil {
		return err
	}
	for _, named := range target.Bundles {
		if err := checkBundle(ctx, site, verifier, named); err != nil {
			return err
		}
	}
	return nil
}

func checkBundle(ctx context.Context, site oci.Registry, verifier *signing.Verifier, named v1alpha1.TargetBundle) error {
	repo, err := site.Repository(named.Repository)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, named.Digest)
	if err != nil {
		return err
	}
	verified, err := verifier.Verify(ctx, repo, named.Repository, desc)
	if err != nil {
		return err
	}
	bundle, err := oci.FetchBundle(ctx, repo, verified)
	if err != nil {
		return err
	}
	if _, err := bundle.Content(ctx); err != nil {
		return err
	}
	for _, image := range bundle.Config.Images {
		parsed, err := oci.ParseImage(image.Reference)
		if err != nil {
			return err
		}
		images, err := site.Repository(parsed.Mirrored())
		if err != nil {
			return err
		}
		for _, reference := range []string{parsed.Tag, image.Digest} {
			desc, err := images.Resolve(ctx, reference)
			if err != nil {
				return err
			}
			if _, err := verifier.Verify(ctx, images, parsed.Mirrored(), desc); err != nil {
				return err
			}
		}
	}
	return nil
}

var small = mirrortest.Fleet{Clusters: 2, Bundles: 6, BundleBytes: 3000, Images: 3, Layers: 1, LayerBytes: 50_000}

// Three sites get exports of their own; one loses a volume of the second, and its import refuses until it is made again.
func TestThreeSites(t *testing.T) {
	fleet := small
	fleet.Clusters = 3
	w := newWorld(t, fleet)
	sites := []oci.Registry{newServer(t).Registry(t), newServer(t).Registry(t), newFolderServer(t).Registry(t)}
	receipts := make([][]byte, len(sites))
	for i, site := range sites {
		cluster := mirrortest.Cluster(i)
		dir := w.export(t, nil, 0, cluster)
		receipts[i] = w.mustImport(t, site, dir).Receipt
		w.check(t, site, cluster)
		again := w.mustImport(t, site, dir)
		if again.Bytes != 0 || len(again.Moved) != 0 {
			t.Errorf("importing again sends %d bytes and moves %v, want nothing", again.Bytes, again.Moved)
		}
	}

	w.fleet.Revision, w.fleet.Changed = 1, 3
	w.publish(t)
	for i, site := range sites {
		cluster := mirrortest.Cluster(i)
		dir := w.export(t, receipts[i], 10_000, cluster)
		volumes := w.open(t, dir).Index().Volumes
		if len(volumes) < 2 {
			t.Fatalf("%d volumes, want more", len(volumes))
		}
		if i == 2 {
			lost := filepath.Join(dir, volumes[1].Name)
			if err := os.Remove(lost); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, site)
			_, err := w.importTo(t, site, dir)
			refused := (*medium.PreflightError)(nil)
			if !errors.As(err, &refused) || !slices.Equal(refused.Volumes, []string{volumes[1].Name}) {
				t.Fatalf("import without %s: got %v, want it named", volumes[1].Name, err)
			}
			if after := snapshot(t, site); after != before {
				t.Errorf("a refused import wrote: %s, before %s", after, before)
			}
			w.repair(t, dir, volumes[1].Name)
		}
		w.mustImport(t, site, dir)
		w.check(t, site, cluster)
	}
}

func (w *world) repair(t *testing.T, dir string, want ...string) {
	t.Helper()
	names, err := medium.Repair(t.Context(), medium.RepairOptions{
		Dir: dir, Open: mirror.Opener(w.centre.Registry(t), w.host), Trust: w.trust, Engine: transfer.New(transfer.Options{}),
	})
	if err != nil || !slices.Equal(names, want) {
		t.Fatalf("repaired %v (%v), want %v", names, err, want)
	}
	if errs := w.open(t, dir).Verify(t.Context(), nil); errs != nil {
		t.Errorf("after the repair: %v", errs)
	}
}

// snapshot is everything that a registry holds, as its have says.
func snapshot(t *testing.T, registry oci.Registry) string {
	t.Helper()
	have, err := mirror.TakeHave(t.Context(), registry, now, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(have.Repositories) == 0 {
		t.Fatal("the have is empty")
	}
	data, err := json.Marshal(have)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What a receiver without the base lacks is listed before anything is written.
func TestBaseIsChecked(t *testing.T) {
	w := newWorld(t, small)
	first := newServer(t).Registry(t)
	receipt := w.mustImport(t, first, w.export(t, nil, 0, "site-00")).Receipt
	w.fleet.Revision, w.fleet.Changed = 1, 1
	w.publish(t)
	delta := w.export(t, receipt, 0, "site-00")
	index := w.open(t, delta).Index()
	if len(index.Held)+len(index.Kept) == 0 {
		t.Fatal("nothing was left out")
	}

	empty := newServer(t)
	_, err := w.importTo(t, empty.Registry(t), delta)
	refused := (*medium.PreflightError)(nil)
	if !errors.As(err, &refused) {
		t.Fatalf("import without the base: got %v, want a refusal", err)
	}
	listed := func(d digest.Digest, repository string) bool {
		return slices.ContainsFunc(refused.Blobs, func(blob medium.Held) bool {
			return strings.HasPrefix(d.String(), blob.Digest.String()) && slices.Contains(blob.In, repository)
		})
	}
	carried := map[string]bool{}
	for _, entry := range index.Entries {
		carried[entry.Key()] = !entry.Held
	}
	for _, entry := range w.find(t, "site-00").Entries {
		if !carried[entry.Key()] && !listed(entry.Digest, entry.Repository) {
			t.Errorf("%s is left out, and not listed", entry.Key())
		}
	}
	for _, held := range index.Held {
		if !listed(held.Digest, held.In[0]) {
			t.Errorf("%s is held, and not listed", held.Digest)
		}
	}
	if n := empty.Count(registrytest.Match{Method: "PUT"}) + empty.Count(registrytest.Match{Method: "POST"}); n != 0 {
		t.Errorf("%d writes, want none", n)
	}
	w.mustImport(t, first, delta)
	w.check(t, first, "site-00")
}

func TestOlderSequenceIsRefused(t *testing.T) {
	w := newWorld(t, small)
	site := newServer(t).Registry(t)
	older := w.export(t, nil, 0, "site-00")
	newer := w.export(t, nil, 0, "site-00")
	w.mustImport(t, site, newer)
	_, err := w.importTo(t, site, older)
	if refused := (*medium.PreflightError)(nil); !errors.As(err, &refused) || refused.Older == nil || !errors.Is(err, oci.ErrNotVerified) {
		t.Errorf("got %v, want a refusal for its age", err)
	}
	opts := w.importOptions(w.open(t, newer), site)
	opts.Now = now.Add(25 * time.Hour)
	_, err = medium.Import(t.Context(), opts)
	if refused := (*medium.PreflightError)(nil); !errors.As(err, &refused) || !refused.Expired {
		t.Errorf("got %v, want a refusal because it has expired", err)
	}
}

// A folder of each volume, in whatever order, is as good as one; some of them first is as good as all at once.
func TestVolumesInAnyOrder(t *testing.T) {
	w := newWorld(t, small)
	site := newServer(t).Registry(t)
	dir := w.export(t, nil, 120_000, "site-00")
	var dirs []string
	for _, volume := range w.open(t, dir).Index().Volumes {
		one := t.TempDir()
		if err := os.Rename(filepath.Join(dir, volume.Name), filepath.Join(one, volume.Name)); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, one)
	}
	slices.Reverse(dirs)
	if len(dirs) < 3 {
		t.Fatalf("%d volumes, want at least 3", len(dirs))
	}
	for i, one := range dirs {
		opts := w.importOptions(w.open(t, dir, one), site)
		opts.Partial = true
		result, err := medium.Import(t.Context(), opts)
		if err != nil {
			t.Fatalf("volume %d of %d: %v", i, len(dirs), err)
		}
		if len(result.Waiting) == 0 {
			break
		}
	}
	w.mustImport(t, site, append(dirs, dir)...)
	w.check(t, site, "site-00")
}

func TestStatusGoesBack(t *testing.T) {
	w := newWorld(t, small)
	site := newFolderServer(t).Registry(t)
	repo, err := site.Repository(v1alpha1.StatusRepository("site-00"))
	if err != nil {
		t.Fatal(err)
	}
	report, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: []byte("{}")}},
	}, v1alpha1.TagCurrent)
	if err != nil {
		t.Fatal(err)
	}
	closure, open, err := mirror.FindStatus(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := medium.Export(t.Context(), medium.ExportOptions{
		Closure: closure, Open: open, Dir: dir, Content: medium.ContentStatus, Stream: "status-site-00",
		Sign: w.signer.SignEnvelope, Now: now, Engine: transfer.New(transfer.Options{}),
	}); err != nil {
		t.Fatal(err)
	}
	centre := w.centre.Registry(t)
	w.mustImport(t, centre, dir)
	repo, err = centre.Repository(v1alpha1.StatusRepository("site-00"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent); err != nil || got.Digest != report.Digest {
		t.Errorf("status at the centre: got %s (%v), want %s", got.Digest, err, report.Digest)
	}
}

// Other tools read each volume.
func TestVolumeIsAnOCILayout(t *testing.T) {
	w := newWorld(t, small)
	dir := w.export(t, nil, 0, "site-00")
	volume := w.open(t, dir).Index().Volumes[0]
	unpacked := t.TempDir()
	untar(t, filepath.Join(dir, volume.Name), unpacked)
	layout, err := oci.OpenLayout(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, layout, "site-00")
}

func TestExportIsTheSameEveryTime(t *testing.T) {
	w := newWorld(t, small)
	first, second := w.open(t, w.export(t, nil, 60_000)).Index(), w.open(t, w.export(t, nil, 60_000)).Index()
	for i, volume := range first.Volumes {
		if other := second.Volumes[i]; volume.Digest != other.Digest || volume.Size > 60_000 {
			t.Errorf("%s: %d bytes with digest %s, and again %s", volume.Name, volume.Size, volume.Digest, other.Digest)
		}
	}
	if _, err := w.exportTo(t, t.TempDir(), nil, 20_000); err == nil || !strings.Contains(err.Error(), "volumes must have at least") {
		t.Errorf("volumes smaller than a layer: got %v", err)
	}
}

// Two exports of one second are told apart, and one over a base comes after it whatever the clock says.
func TestSequenceIncreases(t *testing.T) {
	w := newWorld(t, small)
	export := func(at time.Time, base *medium.Base) int64 {
		t.Helper()
		index, err := medium.Export(t.Context(), medium.ExportOptions{
			Closure: w.find(t, "site-00"), Open: mirror.Opener(w.centre.Registry(t), w.host), Dir: t.TempDir(), Base: base,
			Sign: w.signer.SignEnvelope, Now: at, Engine: transfer.New(transfer.Options{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		return index.Sequence
	}
	first := export(now, nil)
	if second := export(now.Add(time.Millisecond), nil); second <= first {
		t.Errorf("a millisecond later: sequence %d after %d", second, first)
	}
	if over := export(now.Add(-time.Hour), &medium.Base{Digest: digest.FromString("base"), Sequence: first}); over <= first {
		t.Errorf("over a base, by a clock that was set back: sequence %d after %d", over, first)
	}
}
