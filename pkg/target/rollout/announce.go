package rollout

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Announce returns the bundles that hold for a cluster and, by rollout, what is announced to it. before is what it has,
// desired what the fleet repository asks for; scope names the rollout that a bundle changes in, empty for at once. A
// change that others depend on, or that depends on others, goes with them.
func Announce(before, desired []v1alpha1.TargetBundle, scope func(*v1alpha1.TargetBundle) string) (now []v1alpha1.TargetBundle, next map[string]v1alpha1.TargetRollout) {
	a := announcement{before: byName(before), desired: byName(desired), held: map[string]string{}}
	for name := range a.names() {
		old, want := a.before[name], a.desired[name]
		if same(old, want) {
			continue
		}
		of := want
		if of == nil {
			of = old
		}
		if rollout := scope(of); rollout != "" {
			a.held[name] = rollout
		}
	}
	for a.join() {
	}
	return a.result()
}

// announcement is one cluster's change.
type announcement struct {
	before, desired map[string]*v1alpha1.TargetBundle
	held            map[string]string // bundle → rollout
}

func (a *announcement) names() map[string]bool {
	names := make(map[string]bool, len(a.desired))
	for name := range a.before {
		names[name] = true
	}
	for name := range a.desired {
		names[name] = true
	}
	return names
}

// current is what holds of a bundle until its rollout.
func (a *announcement) current(name string) *v1alpha1.TargetBundle {
	if a.held[name] != "" {
		return a.before[name]
	}
	return a.desired[name]
}

// join holds back one change that doesn't fit without another that is held back already; false when all fit.
func (a *announcement) join() bool {
	for _, name := range slices.Sorted(maps.Keys(a.names())) {
		bundle := a.current(name)
		if bundle == nil {
			continue
		}
		for _, dependency := range bundle.DependsOn {
			if a.current(dependency) != nil {
				continue
			}
			if rollout := a.held[dependency]; rollout != "" && a.held[name] == "" {
				a.held[name] = rollout // it needs what is yet to come
				return true
			}
			if rollout := a.held[name]; rollout != "" && a.held[dependency] == "" && a.before[dependency] != nil {
				a.held[dependency] = rollout // it is still needed
				return true
			}
		}
	}
	return false
}

func (a *announcement) result() (now []v1alpha1.TargetBundle, next map[string]v1alpha1.TargetRollout) {
	now, next = []v1alpha1.TargetBundle{}, map[string]v1alpha1.TargetRollout{}
	for _, name := range slices.Sorted(maps.Keys(a.names())) {
		if bundle := a.current(name); bundle != nil {
			now = append(now, *bundle)
		}
		rollout := a.held[name]
		if rollout == "" {
			continue
		}
		announced := next[rollout]
		announced.Name = rollout
		if want := a.desired[name]; want != nil {
			announced.Bundles = append(announced.Bundles, *want)
		} else {
			announced.Remove = append(announced.Remove, name)
		}
		next[rollout] = announced
	}
	return now, next
}

// Take returns the bundles after an announced change.
func Take(bundles []v1alpha1.TargetBundle, rollout *v1alpha1.TargetRollout) []v1alpha1.TargetBundle {
	all := byName(bundles)
	for i := range rollout.Bundles {
		all[rollout.Bundles[i].Name] = &rollout.Bundles[i]
	}
	for _, name := range rollout.Remove {
		delete(all, name)
	}
	out := make([]v1alpha1.TargetBundle, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[name])
	}
	return out
}

// Taken reports whether a cluster at that place has, or is about to have, what a plan announced to it: then it is what
// the next change starts from.
func Taken(gate *v1alpha1.RolloutGate, plan int64, place Place, onAbort v1alpha1.OnAbort) bool {
	if gate == nil || gate.Plan != plan {
		return false
	}
	if gate.Phase == v1alpha1.RolloutAborted && (onAbort == "" || onAbort == v1alpha1.AbortRevert) {
		return false
	}
	return gate.Open(place.Wave, place.Bucket)
}

// Hash tells announcements apart.
func Hash(rollout v1alpha1.TargetRollout) string {
	data, err := json.Marshal(v1alpha1.TargetRollout{Name: rollout.Name, Bundles: rollout.Bundles, Remove: rollout.Remove})
	if err != nil {
		panic(err) // values are JSON types only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

func byName(bundles []v1alpha1.TargetBundle) map[string]*v1alpha1.TargetBundle {
	out := make(map[string]*v1alpha1.TargetBundle, len(bundles))
	for i := range bundles {
		out[bundles[i].Name] = &bundles[i]
	}
	return out
}

// same reports whether two versions of a bundle say the same, as documents.
func same(a, b *v1alpha1.TargetBundle) bool {
	if a == nil || b == nil {
		return a == b
	}
	one, errOne := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

// Flatten returns the target that the fleet repository asked for: with everything that it announces taken.
func Flatten(target v1alpha1.Target) v1alpha1.Target {
	for i := range target.Rollouts {
		target.Bundles = Take(target.Bundles, &target.Rollouts[i])
	}
	target.Rollouts = nil
	return target
}
