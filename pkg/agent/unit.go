package agent

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// unit is one bundle on this cluster: what is wanted, what is recorded, and how it stands. Only the agent's loop
// touches it.
type unit struct {
	name string
	// want is nil for a bundle that left the target.
	want *v1alpha1.TargetBundle
	// generation is the target's that brought want.
	generation int64
	// recorded is what the last apply left; nil before the first.
	recorded *Record

	todo     bool // what is wanted is yet to be brought to the cluster, or to be removed from it
	busy     bool // a worker is at it
	deployed bool // what is wanted was brought to the cluster
	healthy  bool // and all of it is ready
	fresh    bool // not tried yet since the agent started

	attempts int
	retryAt  time.Time
	deadline time.Time // of readiness

	standing
	since   time.Time
	changed bool // and not yet published
}

// standing is how a bundle stands, as it is reported.
type standing struct {
	state   v1alpha1.State
	reason  Reason
	message string

	objects, ready int
	problems       []v1alpha1.Problem
}

// stand sets how the bundle stands; since moves only when the state does.
func (u *unit) stand(s standing, now time.Time) {
	if reflect.DeepEqual(u.standing, s) {
		return
	}
	if u.state != s.state {
		u.since = now
	}
	u.standing, u.changed = s, true
}

// settled reports whether nothing more will happen by itself, short of a retry.
func (u *unit) settled(now time.Time) bool {
	switch {
	case u.busy:
		return false
	case u.todo:
		return u.state == v1alpha1.StateFailed || u.state == v1alpha1.StateRefused ||
			u.state == v1alpha1.StateWaiting && u.reason == ReasonDependencyFailed
	default:
		return u.healthy || u.state == v1alpha1.StateFailed || now.After(u.deadline)
	}
}

// same reports whether two versions of a bundle say the same: as documents, in which an empty list is an absent one.
func same(a, b *v1alpha1.TargetBundle) bool {
	one, errOne := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

// moved reports whether the old version must be removed before the new one is brought: it is kept in another way or,
// for a release, under another name.
func moved(old, next *v1alpha1.TargetBundle) bool {
	if old.Method != next.Method {
		return true
	}
	return old.Method == v1alpha1.MethodRelease && (old.Namespace != next.Namespace || old.Release.Name != next.Release.Name)
}

// plan merges a target into the units: new and changed bundles are to do, those that left are to be removed.
func plan(units map[string]*unit, target *v1alpha1.Target) {
	wanted := make(map[string]bool, len(target.Bundles))
	for i := range target.Bundles {
		want := &target.Bundles[i]
		wanted[want.Name] = true
		one := units[want.Name]
		if one == nil {
			one = &unit{name: want.Name}
			units[want.Name] = one
		}
		if one.want != nil && same(one.want, want) && one.state != v1alpha1.StateRefused {
			one.want = want
			one.retryAt = time.Time{}
			continue // it runs, its worker is at it, or it is tried again
		}
		one.want = want
		one.generation = target.Generation
		if one.recorded != nil && same(&one.recorded.Bundle, want) {
			one.generation = one.recorded.Generation
		}
		one.todo, one.deployed, one.healthy = true, false, false
		one.attempts, one.retryAt = 0, time.Time{}
	}
	for name, one := range units {
		if wanted[name] {
			continue
		}
		if one.recorded == nil && !one.busy {
			delete(units, name)
			continue
		}
		if one.want != nil || !one.todo {
			one.want = nil
			one.todo, one.deployed, one.healthy = true, false, false
			one.attempts, one.retryAt = 0, time.Time{}
		}
	}
}

// choose returns the units to start now, in order of their names, and sets how those stand that have to wait: for a
// dependency, or, when they left, for the wanted ones to be tried. At most limit units are busy.
func choose(units map[string]*unit, now time.Time, limit int) []*unit {
	names := make([]string, 0, len(units))
	busy, untried := 0, false
	for name, one := range units {
		names = append(names, name)
		if one.busy {
			busy++
		}
		if one.want != nil && (one.busy || one.todo && one.attempts == 0 && !stuck(units, one)) {
			untried = true
		}
	}
	slices.Sort(names)
	var chosen []*unit
	for _, name := range names {
		one := units[name]
		if one.busy || !one.todo || now.Before(one.retryAt) {
			continue
		}
		if one.want == nil {
			if untried || needed(units, one) {
				continue
			}
		} else if wait, waiting := await(units, one); waiting {
			one.stand(wait, now)
			continue
		}
		if busy >= limit {
			continue
		}
		busy++
		chosen = append(chosen, one)
	}
	return chosen
}

// await says how a unit stands that has to wait for its dependencies. What ran already before the agent started is
// enforced at once: its dependencies were ready when it came.
func await(units map[string]*unit, one *unit) (standing, bool) {
	if one.fresh && one.recorded != nil && one.recorded.Complete && same(&one.recorded.Bundle, one.want) {
		return standing{}, false
	}
	var failed, waiting []string
	for _, name := range one.want.DependsOn {
		switch dependency := units[name]; {
		case dependency == nil:
			failed = append(failed, name)
		case dependency.deployed && dependency.healthy:
		case dependency.state == v1alpha1.StateFailed, dependency.state == v1alpha1.StateRefused, stuck(units, dependency):
			failed = append(failed, name)
		default:
			waiting = append(waiting, name)
		}
	}
	held := standing{state: v1alpha1.StateWaiting, objects: one.objects, ready: one.ready}
	switch {
	case len(failed) > 0:
		held.reason = ReasonDependencyFailed
		held.message = "waits for " + strings.Join(failed, ", ") + ", which failed"
	case len(waiting) > 0:
		held.reason = ReasonDependencyWaiting
		held.message = "waits for " + strings.Join(waiting, ", ") + " to become ready"
	default:
		return standing{}, false
	}
	return held, true
}

// stuck reports whether a unit cannot be tried because a dependency failed.
func stuck(units map[string]*unit, one *unit) bool {
	if one.want == nil || !one.todo {
		return false
	}
	for _, name := range one.want.DependsOn {
		dependency := units[name]
		if dependency == nil || dependency.state == v1alpha1.StateFailed || dependency.state == v1alpha1.StateRefused ||
			stuck(units, dependency) {
			return true
		}
	}
	return false
}

// needed reports whether a bundle that is also leaving depends on this one: it goes first.
func needed(units map[string]*unit, one *unit) bool {
	for _, other := range units {
		if other.want == nil && other != one && other.recorded != nil && slices.Contains(other.recorded.Bundle.DependsOn, one.name) {
			return true
		}
	}
	return false
}

// Pauses between attempts at a bundle that fails.
const (
	firstPause = 5 * time.Second
	longPause  = 5 * time.Minute
)

// pause returns how long to wait after that many failures: doubling, with a tenth of jitter so that thousands of
// agents don't return at once.
func pause(failures int, first, longest time.Duration) time.Duration {
	wait := first
	for range min(failures-1, 30) {
		if wait *= 2; wait >= longest {
			wait = longest
			break
		}
	}
	return jitter(wait)
}

// jitter spreads a pause over a tenth around it.
func jitter(pause time.Duration) time.Duration {
	if pause <= 0 {
		return 0
	}
	return pause - pause/20 + time.Duration(rand.Int64N(int64(pause/10)+1)) //nolint:gosec // no secret
}

// states are all that a bundle may be in.
var states = []v1alpha1.State{
	v1alpha1.StateReady, v1alpha1.StateUpdating, v1alpha1.StateWaiting, v1alpha1.StateDrifted,
	v1alpha1.StateContested, v1alpha1.StateFailed, v1alpha1.StateRefused,
}
