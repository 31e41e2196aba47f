package mirror_test

import (
	"errors"
	"path/filepath"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// put pushes a small artifact with tags.
func put(t *testing.T, registry oci.Registry, name, content string, tags ...string) {
	t.Helper()
	repo, err := registry.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: "application/vnd.example.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte(content)}},
	}, tags...); err != nil {
		t.Fatal(err)
	}
}

// same says whether both registries have the same manifest under a tag.
func same(t *testing.T, one, other oci.Registry, name, tag string) bool {
	t.Helper()
	var digests [2]string
	for i, registry := range []oci.Registry{one, other} {
		repo, err := registry.Repository(name)
		if err != nil {
			t.Fatal(err)
		}
		desc, err := repo.Resolve(t.Context(), tag)
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			t.Fatal(err)
		}
		digests[i] = desc.Digest.String()
	}
	return digests[0] != "" && digests[0] == digests[1]
}

// newFolderServer lists every tag: distribution in memory leaves out those that are named current.
func newFolderServer(t *testing.T) *registrytest.Server {
	t.Helper()
	handler, err := registry.New(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	return registrytest.Wrap(t, handler)
}

// Every version of the trust root comes along, so that an agent that was away catches up; so does the gate that a target
// waits for. Both are found also when they come after the publication that the last sync brought.
func TestTrustAndGatesFollow(t *testing.T) {
	fleet := small
	fleet.Rollout = "canary"
	w := newWorld(t, mirrortest.Fleet{})
	w.centre = newFolderServer(t)
	w.fleet = fleet
	w.fleet.ImageHost, w.fleet.Now = w.images.Addr, now
	w.publish(t)
	centre, site := w.centre.Registry(t), newFolderServer(t).Registry(t)
	state := filepath.Join(t.TempDir(), "state.json")
	rollout := v1alpha1.RolloutRepository("canary")
	sync := func() (*mirror.Plan, bool) {
		t.Helper()
		plan, report, err := mirror.Sync(t.Context(), mirror.SyncOptions{
			From: mirror.From{Registry: centre, Host: w.host, Verifier: w.verifier}, StateFile: state,
			Copier: mirror.Copier{To: site, Engine: transfer.New(transfer.Options{})},
		})
		if err != nil || report != nil && !report.Complete() {
			t.Fatalf("sync: %v, %+v", err, report)
		}
		return plan, report != nil
	}
	if _, did := sync(); !did {
		t.Fatal("the first sync did nothing")
	}
	if _, did := sync(); did {
		t.Error("a sync of what is there did something")
	}
	for _, later := range []struct {
		name, content string
		tags, want    []string
	}{
		{v1alpha1.RepositoryTrust, "one", []string{"v1", "current"}, []string{"v1", "current"}},
		{v1alpha1.RepositoryTrust, "two", []string{"v2"}, nil},
		{v1alpha1.RepositoryTrust, "three", []string{"v3", "current"}, []string{"v1", "v2", "v3", "current"}},
		{rollout, "closed", []string{"plan-1", v1alpha1.TagGate}, []string{"plan-1", v1alpha1.TagGate}},
		{rollout, "open", []string{v1alpha1.TagGate}, []string{"plan-1", v1alpha1.TagGate}},
	} {
		put(t, centre, later.name, later.content, later.tags...)
		if _, did := sync(); did != (later.want != nil) {
			t.Errorf("after %s:%v: synced %v, want %v", later.name, later.tags, did, later.want != nil)
		}
		for _, tag := range later.want {
			if !same(t, centre, site, later.name, tag) {
				t.Errorf("after %s:%v: %s differs at the site", later.name, later.tags, tag)
			}
		}
	}

	// Who may sign is known before what they signed, and a gate before the target that waits for it.
	closure := w.find(t, mirror.Selection{})
	plan := mirror.Compare(closure, mirror.Inventory{})
	last := map[mirror.Kind]int{}
	first := map[mirror.Kind]int{}
	for i, move := range plan.Moves {
		if _, ok := first[move.Entry.Kind]; !ok {
			first[move.Entry.Kind] = i
		}
		last[move.Entry.Kind] = i
	}
	for _, pair := range [][2]mirror.Kind{{mirror.KindTrust, mirror.KindFleet}, {mirror.KindFleet, mirror.KindRollout}, {mirror.KindRollout, mirror.KindTarget}} {
		if last[pair[0]] >= first[pair[1]] {
			t.Errorf("tags of %s move before those of %s: first %v, last %v", pair[1], pair[0], first, last)
		}
	}
}

// A policy that speaks of images is asked about each of them.
func TestImagePolicy(t *testing.T) {
	w := newWorld(t, small)
	stranger, err := signingtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	by := func(match string, signer *signing.Signer) v1alpha1.TrustRule {
		return v1alpha1.TrustRule{Match: match, Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "k", PublicKey: string(signer.PublicKey())}}}}
	}
	unsigned := v1alpha1.TrustRule{Match: v1alpha1.ImageScheme + "**/app-00", UnsafeAllowUnsigned: true}
	for _, test := range []struct {
		name    string
		rules   []v1alpha1.TrustRule
		refused int
		held    bool
	}{
		{"the signer's own", []v1alpha1.TrustRule{by("**", w.signer), by(v1alpha1.ImageScheme+"**", w.signer)}, 0, false},
		{"somebody else's", []v1alpha1.TrustRule{by("**", w.signer), by(v1alpha1.ImageScheme+"**", stranger)}, 3, true},
		{"one needs none", []v1alpha1.TrustRule{by("**", w.signer), by(v1alpha1.ImageScheme+"**", stranger), unsigned}, 2, true},
		{"says nothing of images", []v1alpha1.TrustRule{by("**", w.signer)}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			verifier, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: test.rules}}, signing.Options{})
			if err != nil {
				t.Fatal(err)
			}
			closure, err := mirror.Find(t.Context(), mirror.From{Registry: w.centre.Registry(t), Host: w.host, Verifier: verifier}, mirror.Selection{})
			if err != nil {
				t.Fatal(err)
			}
			if len(closure.Refused) != test.refused {
				t.Errorf("%d are refused, want %d: %v", len(closure.Refused), test.refused, closure.Refused)
			}
			site := registrytest.New(t).Registry(t)
			plan := mirror.Compare(closure, mirror.Inventory{})
			report, err := mirror.Copier{Open: mirror.Opener(w.centre.Registry(t), w.host), To: site, Engine: transfer.New(transfer.Options{})}.Run(t.Context(), plan)
			if err != nil {
				t.Fatal(err)
			}
			if held := len(report.Held) > 0; held != test.held {
				t.Errorf("targets are held back: %v, want %v: %v", held, test.held, report.Held)
			}
		})
	}
}
