package publish

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target"
)

func publicKeys(signers ...*signing.Signer) []v1alpha1.PublicKey {
	var keys []v1alpha1.PublicKey
	for _, signer := range signers {
		keys = append(keys, v1alpha1.PublicKey{Name: "before", PublicKey: string(signer.PublicKey())})
	}
	return keys
}

// checkInForce fails unless agents that trust the signer alone accept every target, what it names and what it announces,
// and every rollout's plan and gate.
func checkInForce(t *testing.T, registry oci.Registry, signer *signing.Signer, clusters ...string) {
	t.Helper()
	verifier, err := signing.NewKeyVerifier("key", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := ReadIndex(t.Context(), registry, verifier)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range gates.Names(index) {
		if _, err := gates.Read(t.Context(), registry, verifier, name); err != nil {
			t.Error(err)
		}
	}
	for _, cluster := range clusters {
		got, err := seen(t, registry, signer, cluster)
		if err != nil {
			t.Errorf("%s: %v", cluster, err)
		}
		for _, announced := range got.Rollouts {
			for _, bundle := range announced.Bundles {
				repo, err := registry.Repository(bundle.Repository)
				if err != nil {
					t.Fatal(err)
				}
				desc, err := repo.Resolve(t.Context(), bundle.Digest)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := verifier.Verify(t.Context(), repo, bundle.Repository, desc); err != nil {
					t.Errorf("%s: announced: %v", cluster, err)
				}
			}
		}
	}
}

func TestTheKeyThatPublishesChanges(t *testing.T) {
	inBatches := func(t *testing.T) *signing.Signer {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := signature.LoadECDSASignerVerifier(private, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := signing.NewSigner(t.Context(), key, true)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
	tests := []struct {
		name string
		next func(*testing.T) *signing.Signer
	}{
		{name: "a key file", next: anotherSigner},
		{name: "a key that signs in batches", next: inBatches},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, map[string]string{"pinnace.yaml": rolledOut, "clusters/all.yaml": cluster("east") + "---\n" + cluster("gone") + "---\n" + cluster("west")})
			s.publish(nil)
			s.publish(map[string]string{"clusters/all.yaml": cluster("east") + "---\n" + cluster("west")})
			s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")}) // announced
			s.step(v1alpha1.RolloutFleet)
			registry := &counting{Registry: s.registry}
			s.registry = registry
			old, next := s.opts.Signer, tt.next(t)
			before := digests(t, registry, old)

			s.opts.Signer = next
			if _, err := run(t, registry, s.opts); err == nil || !strings.Contains(err.Error(), "--previous-key") {
				t.Errorf("without the key before: got %v, want what mends it", err)
			}
			s.opts.PreviousKeys = publicKeys(old)
			s.opts.DryRun = true
			would := mustRun(t, registry, s.opts)
			if registry.writes.Load() != 0 {
				t.Errorf("a dry run wrote %d times", registry.writes.Load())
			}
			s.opts.DryRun = false
			result := mustRun(t, registry, s.opts)
			// 4 bundles, 3 targets, a plan, a gate and 3 indexes.
			if result.Changed() || result.SignedAgain != 12 || would.SignedAgain != 12 {
				t.Errorf("signed %d again (a dry run says %d), want 12, and no change: %v", result.SignedAgain, would.SignedAgain, actions(result))
			}
			if diff := cmp.Diff(before, digests(t, registry, next)); diff != "" {
				t.Errorf("targets changed (-before +after):\n%s", diff)
			}
			checkInForce(t, registry, next, "east", "west", "gone")
			checkInForce(t, registry, old, "east", "west", "gone") // agents that didn't hear yet

			writes := registry.writes.Load()
			if again := mustRun(t, registry, s.opts); again.SignedAgain != 0 || registry.writes.Load() != writes {
				t.Errorf("once more: signed %d again in %d writes", again.SignedAgain, registry.writes.Load()-writes)
			}

			// From here on the new key needs nobody.
			s.opts.PreviousKeys = nil
			s.now = s.now.Add(time.Minute)
			later := s.publish(map[string]string{"bundles/b/cm.yaml": configMap("b", "2")})
			if !later.Changed() || later.SignedAgain != 0 || len(later.Warnings) > 0 {
				t.Errorf("the next publish: %v, %d signed again, warnings %q", actions(later), later.SignedAgain, later.Warnings)
			}
			checkInForce(t, registry, next, "east", "west", "gone")
			s.step(v1alpha1.RolloutFleet)
		})
	}
}

// digests are the current targets' by cluster.
func digests(t *testing.T, registry oci.Registry, signer *signing.Signer) map[string]v1alpha1.IndexCluster {
	t.Helper()
	verifier, err := signing.NewKeyVerifier("key", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := ReadIndex(t.Context(), registry, verifier)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range index.Clusters {
		found[cluster.Name] = cluster
	}
	return found
}

// One that dies after any number of writes leaves a fleet that the new key alone doesn't publish to, and goes on from there.
func TestSigningAgainIsKilledAnywhere(t *testing.T) {
	old, next := releaseSigner(t), anotherSigner(t)
	dir := write(t, t.TempDir(), nil)
	for limit := int64(0); ; limit++ {
		registry := &counting{Registry: oci.NewMemory()}
		mustRun(t, registry, options(t, dir, old))
		registry.limit.Store(registry.writes.Load() + limit)
		registry.limited.Store(true)
		opts := options(t, dir, next)
		opts.PreviousKeys = publicKeys(old)
		_, err := run(t, registry, opts)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		checkInForce(t, registry, old, "east", "west")
		registry.limited.Store(false)
		alone := opts
		alone.PreviousKeys = nil
		if _, refused := run(t, registry, alone); (refused == nil) != (err == nil) {
			t.Fatalf("killed after %d writes: the new key alone: got %v", limit, refused)
		}
		mustRun(t, registry, opts)
		checkInForce(t, registry, next, "east", "west")
		if err == nil {
			if limit < 10 {
				t.Fatalf("only %d writes: nothing was tried", limit)
			}
			return
		}
	}
}

func TestAStrangerIsNoPreviousKey(t *testing.T) {
	registry := &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), nil)
	mustRun(t, registry, options(t, dir, releaseSigner(t)))
	stranger, err := signing.NewMemorySigner()
	if err != nil {
		t.Fatal(err)
	}
	writes := registry.writes.Load()
	opts := options(t, dir, anotherSigner(t))
	opts.PreviousKeys = publicKeys(stranger)
	var refusal *signing.Error
	if _, err := run(t, registry, opts); !errors.As(err, &refusal) || registry.writes.Load() != writes {
		t.Errorf("a stranger's key: got %v after %d writes", err, registry.writes.Load()-writes)
	}
	opts.PreviousKeys = publicKeys(stranger, releaseSigner(t))
	mustRun(t, registry, opts)
	checkInForce(t, registry, opts.Signer, "east", "west")
	opts.PreviousKeys = []v1alpha1.PublicKey{{Name: "broken.pub", PublicKey: "no key"}}
	if _, err := run(t, registry, opts); err == nil || !strings.Contains(err.Error(), "broken.pub") {
		t.Errorf("no key at all: got %v, want its name", err)
	}
}

// What is gone back to was in force long ago: it is signed with the targets that are made of it.
func TestRollbackBehindAChangeOfKeys(t *testing.T) {
	old, next, registry := releaseSigner(t), anotherSigner(t), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	mustRun(t, registry, options(t, dir, old))
	write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	mustRun(t, registry, options(t, dir, old))
	opts := options(t, dir, next)
	opts.PreviousKeys = publicKeys(old)
	mustRun(t, registry, opts)

	back := RollbackOptions{Options: opts, To: 1}
	back.PreviousKeys = nil
	if _, err := Rollback(t.Context(), registry, back); err == nil || !strings.Contains(err.Error(), "--previous-key") {
		t.Errorf("without the key before: got %v, want what mends it", err)
	}
	checkInForce(t, registry, next, "east", "west")
	back.PreviousKeys = opts.PreviousKeys
	result, err := Rollback(t.Context(), registry, back)
	if err != nil || actions(result)["target/east/3"] != target.Changed || result.SignedAgain == 0 {
		t.Fatalf("got %v and %v, %d signed again", err, actions(result), result.SignedAgain)
	}
	checkInForce(t, registry, next, "east", "west")
}
