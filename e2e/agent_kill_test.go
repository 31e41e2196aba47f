package e2e

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// kills is how often the agent is killed at a random moment of its work.
const kills = 200

// An agent that is killed 200 times while new targets keep coming always leaves a state folder from which the next one
// goes on: its files are whole, and every byte of the target in force is on the disk. In the end it needs no registry to
// put back what somebody changed, and brings the newest target when the registry is there.
func TestKilledAgent(t *testing.T) {
	ctx := t.Context()
	const name = "killed"
	own, err := site.NewRegistry(ctx, "killed")
	ok(t, err)
	fleet := smallFleet(t, own.Addr, name, map[string]string{"one": textOf("one", "a"), "two": textOf("two", "a"), "three": textOf("three", "a")})
	publish(t, fleet)
	first, _, err := fleet.Target(ctx, name)
	ok(t, err)
	for _, bundle := range []string{"one", "two"} {
		ok(t, fleet.Write("bundles/"+bundle+"/manifests.yaml", textOf(bundle, "b")))
	}
	commit(t, fleet, "The other version")
	publish(t, fleet)
	second, _, err := fleet.Target(ctx, name)
	ok(t, err)

	cluster := newCluster(t, name)
	victim := newAgent(t, fleet, cluster, harness.AgentOptions{Interval: 50 * time.Millisecond})
	start(t, victim)
	ok(t, cluster.WaitReady(ctx, "one", "three", "two"))
	victim.Kill()
	generation := second.Generation
	forced := 0
	for i := range kills {
		next := []v1alpha1.Target{first, second}[i%2]
		generation++
		next.Generation, next.IssuedAt, next.ExpiresAt = generation, second.IssuedAt, second.ExpiresAt
		ok(t, fleet.PushTarget(ctx, name, next, fleet.Key))
		ok(t, victim.Start())
		select {
		case <-time.After(rand.N(350 * time.Millisecond)):
		case <-ctx.Done():
		}
		victim.Kill()
		if got := consistent(t, victim.StateDir, name); got > int64(forced) {
			forced = int(got)
		}
	}
	if forced < int(second.Generation)+10 {
		t.Errorf("only generation %d of %d came into force between the kills: they hit nothing", forced, generation)
	}

	ok(t, own.Stop())
	three := &corev1.ConfigMap{}
	ok(t, cluster.Client.Get(ctx, client.ObjectKey{Namespace: "three", Name: "three"}, three))
	three.Data["text"] = "by hand"
	ok(t, cluster.Client.Update(ctx, three))
	ok(t, victim.Start())
	waitText(t, cluster, "three", "a")
	ok(t, own.Start(ctx))
	waitText(t, cluster, "one", "b") // the last of an even number
	ok(t, cluster.WaitReady(ctx, "one", "three", "two"))
	ok(t, victim.Stop())
}

// consistent checks what a killed agent left, as the next one reads it, and returns the generation in force.
func consistent(t *testing.T, dir, cluster string) int64 {
	t.Helper()
	state, err := agent.OpenState(dir)
	ok(t, err)
	defer func() { ok(t, state.Close()) }()
	remembered, err := state.Remembered()
	ok(t, err)
	_, err = state.Records()
	ok(t, err)
	layout, err := oci.OpenLayout(state.ContentDir())
	ok(t, err)
	if remembered.Target == nil {
		t.Fatal("no target is in force")
	}
	target := whole(t, layout, v1alpha1.TargetRepository(cluster), remembered.Target.Digest.String())
	var document v1alpha1.Target
	ok(t, oci.DecodeJSON(target, v1alpha1.KindTarget, &document, &document.TypeMeta))
	for i := range document.Bundles {
		whole(t, layout, document.Bundles[i].Repository, document.Bundles[i].Digest)
	}
	if document.Generation > remembered.Known.Generation {
		t.Fatalf("generation %d is in force, and only %d is known", document.Generation, remembered.Known.Generation)
	}
	return document.Generation
}

// whole checks that a manifest, its config and its layers are there, and returns the layer.
func whole(t *testing.T, layout oci.Registry, repository, digest string) []byte {
	t.Helper()
	repo, err := layout.Repository(repository)
	ok(t, err)
	desc, err := repo.Resolve(t.Context(), digest)
	ok(t, err)
	manifest, _, err := oci.ReadManifest(t.Context(), repo, desc)
	ok(t, err)
	_, err = oci.ReadAll(t.Context(), repo, manifest.Config, oci.MaxConfig)
	ok(t, err)
	layer, err := oci.ReadAll(t.Context(), repo, manifest.Layers[0], oci.MaxBundleContent)
	ok(t, err)
	signature, err := repo.Resolve(t.Context(), oci.SignatureTag(desc.Digest))
	ok(t, errors.Join(err, errAbsent(signature.Digest.String())))
	return layer
}

func errAbsent(digest string) error {
	if digest == "" {
		return errors.New("the signature is not on the disk")
	}
	return nil
}
