package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// What an earlier key signed and the next one signed again is taken by agents that trust the next one alone: also what
// lies on their disks with the earlier signature, which is brought again with both.
func TestWhatWasSignedAgainIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	next := foreignKey()
	trustNext := func(config *agent.Config) { config.Verifier = verifier{next.verifier} }
	web := w.bundle("web", "1")
	w.publish(target(1, web))
	w.sync()

	changed := target(2, web, w.bundleOf("late", next.signer, map[string][]byte{"manifests/all.yaml": []byte(configMaps("late", "1"))}))
	desc := w.publishAs(changed, next.signer)
	if got := agent.ReasonOf(w.sync(trustNext).Problem, ""); got != agent.ReasonKeyNotTrusted {
		t.Errorf("before the bundle is signed again: %q, want %s", got, agent.ReasonKeyNotTrusted)
	}
	repo, err := w.registry.Registry.Repository(web.Repository)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := repo.Resolve(t.Context(), web.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.signer.Sign(t.Context(), repo, signed); err != nil {
		t.Fatal(err)
	}
	if result := w.sync(trustNext); result.Problem != nil || !result.Changed {
		t.Fatalf("signed again: %v, changed %v", result.Problem, result.Changed)
	}
	if got := w.holder.known; got.Generation != 2 || got.Digest != desc.Digest.String() {
		t.Errorf("the cluster remembers %+v, want generation 2", got)
	}
	// It starts from the disk alone.
	w.registry.set(errors.New("no network"))
	w.sync(trustNext)
	w.expect("web", "Ready Ready", "1")
}

// refreshing is what the command wires for policies from files: a changed one is in force at the next verification.
type refreshing struct{ verifier }

func (r refreshing) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	_, _ = r.Refresh() // of one that cannot be read, the one before stays in force
	return r.verifier.Verify(ctx, repo, name, desc)
}

// Syncs go on while the policy's files are replaced and the keys rotate: what both policies trust is taken by each of them,
// and a key is dead from the sync after the one that took it out.
func TestSyncWhilePolicyAndKeysChange(t *testing.T) {
	t.Parallel()
	w, dir := newWorld(t), t.TempDir()
	replace := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Error(err)
		}
	}
	policy := func(first, second string) string {
		return fmt.Sprintf("apiVersion: pinnace.dev/v1alpha1\nkind: TrustPolicy\nspec: {rules: [{match: \"**\", signers: {keys: [{name: one, file: %s}%s]}}]}\n", first, second)
	}
	both, turned := policy("a.pub", ", {name: two, file: b.pub}"), policy("b.pub", ", {name: two, file: a.pub}")
	signers := []*signing.Signer{releaseKey().signer, foreignKey().signer}
	replace("a.pub", string(signers[0].PublicKey()))
	replace("b.pub", string(signers[1].PublicKey()))
	replace("trust.yaml", both)
	loaded, err := signing.LoadPolicy(filepath.Join(dir, "trust.yaml"), signing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	change := func(config *agent.Config) { config.Verifier = refreshing{verifier{loaded}} }
	published := func(generation int64, signer *signing.Signer) {
		var bundles []v1alpha1.TargetBundle
		for _, name := range []string{"api", "shop", "web"} {
			files := map[string][]byte{"manifests/all.yaml": []byte(configMaps(name, fmt.Sprint(generation)))}
			bundles = append(bundles, w.bundleOf(name, signer, files))
		}
		w.publishAs(target(generation, bundles...), signer)
	}

	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				replace("trust.yaml", []string{both, turned, "spec: ["}[i%3])
			}
		}
	})
	for generation := int64(1); generation <= 6; generation++ {
		published(generation, signers[generation%2])
		if result := w.sync(change); result.Problem != nil || !result.Changed {
			t.Errorf("generation %d: %v, changed %v", generation, result.Problem, result.Changed)
		}
	}
	close(stop)
	changing.Wait()

	replace("trust.yaml", policy("b.pub", ""))
	published(7, signers[0])
	if got := agent.ReasonOf(w.sync(change).Problem, ""); got != agent.ReasonKeyNotTrusted {
		t.Errorf("signed by a key that is out: %q, want %s", got, agent.ReasonKeyNotTrusted)
	}
	if w.runs() != "6" {
		t.Errorf("web runs %q, want 6", w.runs())
	}
	published(7, signers[1])
	if result := w.sync(change); result.Problem != nil || !result.Changed {
		t.Errorf("signed by the other: %v, changed %v", result.Problem, result.Changed)
	}
}
