package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/oci"
)

// What a hostile or stale registry may offer: each is refused with its reason, and nothing on the cluster changes.
func TestRefusedTargets(t *testing.T) {
	const name = "ship-7"
	ctx := t.Context()
	cluster := newCluster(t, "refusals")
	fleet := newFleet(t, registry.Addr)
	publish(t, fleet)
	_, first, err := fleet.Target(ctx, name)
	ok(t, err)
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Name: name})
	sync(t, agent)

	ok(t, fleet.Replace("bundles/sensors/pinnace.yaml", "SEND_EVERY: 15m", "SEND_EVERY: 20m"))
	commit(t, fleet, "Generation 2")
	publish(t, fleet)
	sync(t, agent)
	sync(t, agent) // what the first pass wrote may have made something ready
	genuine, current, err := fleet.Target(ctx, name)
	ok(t, err)
	intruder, err := site.NewKey(ctx, "intruder")
	ok(t, err)
	unchanged, err := cluster.Versions(ctx)
	ok(t, err)

	push := func(key harness.Key, change func(*v1alpha1.Target)) func(*testing.T) {
		return func(t *testing.T) {
			target := genuine
			target.Generation += 10
			change(&target)
			ok(t, fleet.PushTarget(t.Context(), name, target, key))
		}
	}
	tag := func(desc ocispec.Descriptor) func(*testing.T) {
		return func(t *testing.T) { ok(t, fleet.SetCurrent(t.Context(), name, desc)) }
	}
	for _, tt := range []struct {
		name   string
		offer  func(*testing.T)
		code   int
		reason string
	}{
		{"signed with a wrong key", push(intruder, func(*v1alpha1.Target) {}), 6, "KeyNotTrusted"},
		{"not signed", push(harness.Key{}, func(target *v1alpha1.Target) { target.Generation++ }), 6, "SignatureMissing"},
		{"another cluster's", func(t *testing.T) { copyTarget(t, fleet, "store-42", name) }, 6, "WrongCluster"},
		{"another fleet's", push(fleet.Key, func(target *v1alpha1.Target) { target.Fleet = "other" }), 6, "WrongFleet"},
		{"older", tag(first), 6, "Rollback"},
		{"the same generation with other content", push(fleet.Key, func(target *v1alpha1.Target) {
			target.Generation = genuine.Generation
			target.Interval = metav1.Duration{Duration: time.Hour}
		}), 6, "Equivocation"},
		{"expired", push(fleet.Key, func(target *v1alpha1.Target) {
			target.IssuedAt = metav1.NewTime(time.Now().Add(-2 * time.Hour))
			target.ExpiresAt = metav1.NewTime(time.Now().Add(-time.Hour))
		}), 6, "TargetExpired"},
		{"from the future", push(fleet.Key, func(target *v1alpha1.Target) {
			target.IssuedAt = metav1.NewTime(time.Now().Add(24 * time.Hour))
		}), 6, "ClockSkew"},
		{"without most of what runs", push(fleet.Key, func(target *v1alpha1.Target) {
			target.Bundles = target.Bundles[:1]
		}), 6, "PruneGuard"},
		// Last: its generation is the newest ever accepted from here on.
		{"with a bundle that is nowhere", push(fleet.Key, func(target *v1alpha1.Target) {
			bundles := append([]v1alpha1.TargetBundle{}, target.Bundles...)
			bundles[0].Digest = current.Digest.String()
			target.Bundles = bundles
		}), 5, "NotFound"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.offer(t)
			_, err := agent.SyncOnce(t.Context())
			wantExit(t, err, tt.code, tt.reason)
			now, err := cluster.Versions(t.Context())
			ok(t, err)
			if diff := cmp.Diff(unchanged, now); diff != "" {
				t.Errorf("the cluster was written to (-before +after):\n%s", diff)
			}
		})
	}
	ok(t, fleet.SetCurrent(ctx, name, current))
	sync(t, agent) // what is in force stays acceptable while a newer target is incomplete
	ok(t, fleet.SetCurrent(ctx, name, first))
	_, err = agent.SyncOnce(ctx)
	wantExit(t, err, 6, "Rollback", "a deliberate return is a new generation")
}

// sync does one pass that must succeed.
func sync(t *testing.T, agent *harness.Agent) {
	t.Helper()
	if _, err := agent.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// copyTarget offers one cluster's target, with its signature, to another.
func copyTarget(t *testing.T, fleet *harness.Fleet, from, to string) {
	t.Helper()
	_, desc, err := fleet.Target(t.Context(), from)
	ok(t, err)
	src, err := fleet.Repository(v1alpha1.TargetRepository(from))
	ok(t, err)
	dst, err := fleet.Repository(v1alpha1.TargetRepository(to))
	ok(t, err)
	ok(t, oci.Copy(t.Context(), src, dst, desc, v1alpha1.TagCurrent))
}
