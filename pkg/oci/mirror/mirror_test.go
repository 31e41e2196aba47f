package mirror_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// world is a fleet on one registry with its images on another.
type world struct {
	fleet          mirrortest.Fleet
	centre, images *registrytest.Server
	signer         *signing.Signer
	verifier       *signing.Verifier
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
	w := &world{fleet: fleet, centre: registrytest.New(t), images: registrytest.New(t), signer: signer, verifier: verifier}
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

func (w *world) find(t *testing.T, selection mirror.Selection) *mirror.Closure {
	t.Helper()
	closure, err := mirror.Find(t.Context(), mirror.From{Registry: w.centre.Registry(t), Host: w.host, Verifier: w.verifier}, selection)
	if err != nil {
		t.Fatal(err)
	}
	return closure
}

// opener opens what a closure is read from.
func opener(t *testing.T, centre oci.Registry, host func(string) (oci.Registry, error)) func(*mirror.Entry) (oci.Repository, error) {
	t.Helper()
	return mirror.Opener(centre, host)
}

func (w *world) sync(ctx context.Context, t *testing.T, to oci.Registry, selection mirror.Selection, opts transfer.Options) (*mirror.Plan, *mirror.Report) {
	t.Helper()
	closure := w.find(t, selection)
	there, err := mirror.Look(ctx, to, closure, 0)
	if err != nil {
		t.Fatal(err)
	}
	plan := mirror.Compare(closure, there)
	report, err := mirror.Copier{
		Open: opener(t, w.centre.Registry(t), w.host), To: to, Engine: transfer.New(opts), Journal: opts.Journal,
	}.Run(ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	return plan, report
}

var small = mirrortest.Fleet{Clusters: 2, Bundles: 6, BundleBytes: 1000, Images: 3, Layers: 1, LayerBytes: 5000}

func TestSync(t *testing.T) {
	w := newWorld(t, small)
	site := registrytest.New(t)
	plan, report := w.sync(t.Context(), t, site.Registry(t), mirror.Selection{Clusters: []string{"site-01"}}, transfer.Options{})
	if !report.Complete() {
		t.Fatalf("report: %+v", report)
	}
	if bytes, blobs := plan.Send(); bytes == 0 || blobs != report.Sent {
		t.Errorf("planned %d bytes and %d blobs, sent %d blobs", bytes, blobs, report.Sent)
	}
	// The other cluster's target isn't there; this one's verifies with everything it names.
	registry := site.Registry(t)
	repo, err := registry.Repository(v1alpha1.TargetRepository("site-00"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(t.Context(), "current"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("target of another site: got %v, want %v", err, oci.ErrNotFound)
	}
	checkSite(t, registry, w.verifier, "site-01")

	again, report := w.sync(t.Context(), t, registry, mirror.Selection{Clusters: []string{"site-01"}}, transfer.Options{})
	if !again.Done() || report.Bytes != 0 {
		t.Errorf("a second sync has %d steps, moves %+v and sends %d bytes, want nothing", len(again.Steps), report.Moved, report.Bytes)
	}
}

// checkSite reads what an agent reads, and every image.
func checkSite(t *testing.T, registry oci.Registry, verifier *signing.Verifier, cluster string) {
	t.Helper()
	ctx := t.Context()
	repo := func(name string) oci.Repository {
		repo, err := registry.Repository(name)
		if err != nil {
			t.Fatal(err)
		}
		return repo
	}
	targets := repo(v1alpha1.TargetRepository(cluster))
	desc, err := targets.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier.Verify(ctx, targets, v1alpha1.TargetRepository(cluster), desc)
	if err != nil {
		t.Fatal(err)
	}
	target, err := oci.FetchTarget(ctx, targets, verified)
	if err != nil {
		t.Fatal(err)
	}
	for _, named := range target.Bundles {
		bundles := repo(named.Repository)
		desc, err := bundles.Resolve(ctx, named.Digest)
		if err != nil {
			t.Fatal(err)
		}
		verified, err := verifier.Verify(ctx, bundles, named.Repository, desc)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := oci.FetchBundle(ctx, bundles, verified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundle.Content(ctx); err != nil {
			t.Error(err)
		}
		for _, image := range bundle.Config.Images {
			checkImage(t, repo, verifier, image)
		}
	}
}

func checkImage(t *testing.T, repo func(string) oci.Repository, verifier *signing.Verifier, image v1alpha1.Image) {
	t.Helper()
	name, err := oci.ParseImage(image.Reference)
	if err != nil {
		t.Fatal(err)
	}
	images := repo(name.Mirrored())
	for _, reference := range []string{image.Digest, name.Tag} {
		desc, err := images.Resolve(t.Context(), reference)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(t.Context(), images, name.Mirrored(), desc); err != nil {
			t.Error(err)
		}
	}
}

func TestClosureSaysWhy(t *testing.T) {
	w := newWorld(t, small)
	closure := w.find(t, mirror.Selection{Clusters: []string{"site-00"}, Platforms: []string{"linux/arm64"}})
	kinds := map[mirror.Kind]int{}
	for _, entry := range closure.Entries {
		kinds[entry.Kind]++
		if len(entry.Why) == 0 {
			t.Errorf("%s has no reason", entry.Key())
		}
		if entry.Kind == mirror.KindPlatform && !strings.Contains(entry.Why[0], "linux/arm64") {
			t.Errorf("%s: %q, want only arm64", entry.Key(), entry.Why)
		}
	}
	// Bundles 0, 2 and 4 name images 0, 2 and 1, of which each has one platform left; target, fleet, bundles and images
	// are signed.
	for kind, want := range map[mirror.Kind]int{
		mirror.KindFleet: 1, mirror.KindTarget: 1, mirror.KindBundle: 3, mirror.KindImage: 3, mirror.KindPlatform: 3, mirror.KindSignature: 8,
	} {
		if kinds[kind] != want {
			t.Errorf("%d entries of kind %s, want %d", kinds[kind], kind, want)
		}
	}
}

// What a closure costs at the sender: a few requests for each manifest, and none for signatures that aren't there.
func TestRequestsOfAClosure(t *testing.T) {
	w := newWorld(t, small)
	w.centre.Reset()
	closure := w.find(t, mirror.Selection{})
	own := 0
	for _, entry := range closure.Entries {
		if entry.Origin == "" {
			own++
		}
	}
	const each = 5 // without the list of tags it is more than 7
	if got := w.centre.Count(registrytest.Match{}); got > each*own {
		t.Errorf("%d requests for %d manifests, want at most %d for each", got, own, each)
	}
}
