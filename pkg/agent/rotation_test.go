package agent_test

import (
	"errors"
	"testing"

	"pinnace.dev/pinnace/pkg/agent"
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
