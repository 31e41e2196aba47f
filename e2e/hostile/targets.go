package hostile

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

// changed publishes a well-signed successor that was changed: what a stolen key, or another cluster's target, can do.
func changed(change func(*v1alpha1.Target)) func(*World) {
	return func(w *World) {
		next := w.next(w.bundle("web", evil))
		change(&next)
		w.publish(next)
	}
}

func changedBundle(change func(*v1alpha1.TargetBundle)) func(*World) {
	return changed(func(t *v1alpha1.Target) { change(&t.Bundles[1]) })
}

func targetAttacks() []Attack {
	invalid := reasons(agent.ReasonInvalidTarget)
	return []Attack{
		{Name: "another cluster's target", Want: reasons(agent.ReasonWrongCluster), Prepare: changed(func(t *v1alpha1.Target) { t.Cluster = "factory-08" })},
		{Name: "cluster's name in other letters", Want: reasons(agent.ReasonWrongCluster), Prepare: changed(func(t *v1alpha1.Target) { t.Cluster = "Factory-07" })},
		{Name: "target for no cluster", Want: reasons(agent.ReasonWrongCluster), Prepare: changed(func(t *v1alpha1.Target) { t.Cluster = "" })},
		{Name: "another fleet's target", Want: reasons(agent.ReasonWrongFleet), Prepare: changed(func(t *v1alpha1.Target) { t.Fleet = "emca" })},
		{Name: "older generation", Want: reasons(agent.ReasonRollback), Prepare: changed(func(t *v1alpha1.Target) { t.Generation = generation - 1 })},
		{Name: "same generation, other content", Want: reasons(agent.ReasonEquivocation), Prepare: changed(func(t *v1alpha1.Target) { t.Generation = generation })},
		{Name: "far-future generation", Want: invalid, Prepare: changed(func(t *v1alpha1.Target) { t.Generation = 1<<62 - 1 })},
		{Name: "generation beyond what may be skipped", Want: invalid, Prepare: changed(func(t *v1alpha1.Target) { t.Generation = generation + agent.MaxGenerationStep + 1 })},
		{Name: "negative generation", Want: reasons(agent.ReasonInvalidTarget, agent.ReasonRollback), Prepare: changed(func(t *v1alpha1.Target) { t.Generation = -1 })},
		{Name: "expired target", Want: reasons(agent.ReasonTargetExpired), Prepare: changed(func(t *v1alpha1.Target) { t.ExpiresAt = metav1.NewTime(time.Now().Add(-time.Minute)) })},
		{Name: "target of tomorrow", Want: reasons(agent.ReasonClockSkew), Prepare: changed(func(t *v1alpha1.Target) {
			t.IssuedAt, t.ExpiresAt = metav1.NewTime(time.Now().Add(24*time.Hour)), metav1.NewTime(time.Now().Add(48*time.Hour))
		})},
		{Name: "target that never expires", Want: invalid, Prepare: changed(func(t *v1alpha1.Target) { t.ExpiresAt = metav1.Time{} })},
		{Name: "target without any bundle", Want: reasons(agent.ReasonPruneGuard), Prepare: changed(func(t *v1alpha1.Target) { t.Bundles = nil })},
		{Name: "bundle named twice", Want: invalid, Prepare: changed(func(t *v1alpha1.Target) { t.Bundles = append(t.Bundles, t.Bundles[1]) })},
		{Name: "bundle named as a path", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Name = "../../etc/passwd" })},
		{Name: "bundle with an endless name", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Name = strings.Repeat("x", 5000) })},
		{Name: "repository that climbs out", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Repository = "bundles/../../other/web" })},
		{Name: "repository on another host", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Repository = "evil.example:5000/web" })},
		{Name: "tag in the place of a digest", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Digest = "latest" })},
		{Name: "weak digest", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" })},
		{Name: "digest of another algorithm", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.LayerDigest = "sha512:" + strings.Repeat("a", 128) })},
		{Name: "unknown method", Want: invalid, Prepare: changedBundle(func(b *v1alpha1.TargetBundle) { b.Method = "exec" })},
		{Name: "dependencies in a circle", Want: invalid, Prepare: changed(func(t *v1alpha1.Target) {
			t.Bundles[0].DependsOn, t.Bundles[1].DependsOn = []string{"web"}, []string{"shop"}
		})},
		{Name: "ten thousand and one bundles", Want: reasons(agent.ReasonInvalidTarget, agent.ReasonTooLarge), Prepare: changed(func(t *v1alpha1.Target) {
			for i := range agent.MaxBundles {
				one := t.Bundles[1]
				one.Name = "b" + strings.Repeat("x", i%50) + string(rune('a'+i%26))
				t.Bundles = append(t.Bundles, one)
			}
		})},
		{Name: "older generation after the state folder was lost", Want: reasons(agent.ReasonRollback), Prepare: func(w *World) {
			next := w.next(w.bundle("web", evil))
			next.Generation = generation - 1
			w.publish(next)
			w.loseGeneration()
		}},
		{Name: "older generation after the cluster was restored from a backup", Want: reasons(agent.ReasonRollback), Prepare: func(w *World) {
			next := w.next(w.bundle("web", evil))
			next.Generation = generation - 1
			w.publish(next)
			w.cluster.known = agent.Known{Generation: 1}
		}},
		{Name: "expired target while the clock was set back", Want: reasons(agent.ReasonTargetExpired), Prepare: func(w *World) {
			next := w.next(w.bundle("web", evil))
			next.ExpiresAt = metav1.NewTime(time.Now().Add(time.Hour)) // by this node's clock still fresh
			w.cluster.known.Latest = time.Now().Add(3 * time.Hour)     // but a newer time was signed
			w.publish(next)
		}},
		{Name: "the same target again and again", Harmless: true, Prepare: func(w *World) { w.publish(w.First) }},
	}
}
