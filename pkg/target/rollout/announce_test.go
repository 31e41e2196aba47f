package rollout_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// bundles reads "a1 b2<a": bundle a in version 1, and b in version 2, which depends on a.
func bundles(text string) []v1alpha1.TargetBundle {
	var out []v1alpha1.TargetBundle
	for _, word := range strings.Fields(text) {
		word, needs, _ := strings.Cut(word, "<")
		bundle := v1alpha1.TargetBundle{Name: word[:1], Digest: word[1:]}
		if needs != "" {
			bundle.DependsOn = strings.Split(needs, ",")
		}
		out = append(out, bundle)
	}
	return out
}

func text(bundles []v1alpha1.TargetBundle) string {
	var words []string
	for _, bundle := range bundles {
		word := bundle.Name + bundle.Digest
		if len(bundle.DependsOn) > 0 {
			word += "<" + strings.Join(bundle.DependsOn, ",")
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// Bundles a, b and c change in a rollout, x, y and z at once.
func TestAnnounce(t *testing.T) {
	for _, test := range []struct{ name, before, desired, now, next string }{
		{"nothing changes", "a1 x1", "a1 x1", "a1 x1", ""},
		{"a change is announced", "a1 x1", "a2 x1", "a1 x1", "a2"},
		{"a change applies at once", "a1 x1", "a1 x2", "a1 x2", ""},
		{"both", "a1 x1", "a2 x2", "a1 x2", "a2"},
		{"something new", "x1", "b1 x1", "x1", "b1"},
		{"something leaves", "a1 b1", "a1", "a1 b1", "-b"},
		{"something leaves at once", "a1 x1", "a1", "a1", ""},
		{"what needs something that is announced waits for it", "x1", "b1 x2<b", "x1", "b1 x2<b"},
		{"what needs something that waits, too", "x1 y1", "b1 x2<b y2<z z1<b", "x1 y1", "b1 x2<b y2<z z1<b"},
		{"what is still needed stays", "a1<x x1", "a2", "a1<x x1", "a2 -x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			now, next := rollout.Announce(bundles(test.before), bundles(test.desired), func(b *v1alpha1.TargetBundle) string {
				if b.Name < "d" {
					return "fleet"
				}
				return ""
			})
			announced := next["fleet"]
			got := text(announced.Bundles)
			for _, name := range announced.Remove {
				got = strings.TrimSpace(got + " -" + name)
			}
			if text(now) != test.now || got != test.next {
				t.Errorf("got now %q and next %q, want %q and %q", text(now), got, test.now, test.next)
			}
			if len(next) > 1 {
				t.Errorf("rollouts: %v", slices.Collect(maps.Keys(next)))
			}
			target := v1alpha1.Target{Bundles: now, Rollouts: slices.Collect(maps.Values(next))}
			if flat := text(rollout.Flatten(target).Bundles); flat != test.desired {
				t.Errorf("with everything taken: got %q, want %q", flat, test.desired)
			}
		})
	}
}

func TestTaken(t *testing.T) {
	gate := func(phase v1alpha1.RolloutPhase) *v1alpha1.RolloutGate {
		return &v1alpha1.RolloutGate{Plan: 3, Phase: phase, OpenWave: 1, OpenBucket: 500}
	}
	for _, test := range []struct {
		name    string
		gate    *v1alpha1.RolloutGate
		place   rollout.Place
		onAbort v1alpha1.OnAbort
		want    bool
	}{
		{"no gate", nil, rollout.Place{}, "", false},
		{"let in", gate(v1alpha1.RolloutProgressing), rollout.Place{Wave: 1, Bucket: 499}, "", true},
		{"not let in", gate(v1alpha1.RolloutProgressing), rollout.Place{Wave: 1, Bucket: 500}, "", false},
		{"completed", gate(v1alpha1.RolloutCompleted), rollout.Place{Wave: 4}, "", true},
		{"aborted", gate(v1alpha1.RolloutAborted), rollout.Place{}, v1alpha1.AbortRevert, false},
		{"aborted, kept", gate(v1alpha1.RolloutAborted), rollout.Place{}, v1alpha1.AbortKeep, true},
		{"aborted, kept, never let in", gate(v1alpha1.RolloutAborted), rollout.Place{Wave: 2}, v1alpha1.AbortKeep, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := rollout.Taken(test.gate, 3, test.place, test.onAbort); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if rollout.Taken(test.gate, 4, test.place, test.onAbort) {
				t.Error("another plan's gate lets nobody in")
			}
		})
	}
}
