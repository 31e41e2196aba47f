package agent

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// unit is one bundle on this cluster: what is wanted, what is recorded, and how it stands. Only the agent's loop
// touches it.
type unit struct {
	name string
	// planned: a target in force says what becomes of the bundle.
	planned bool
	// offered is the version that the target asks for; nil for a bundle that left it.
	offered      *v1alpha1.TargetBundle
	offeredPrint string
	// generation is the target's that brought offered.
	generation int64
	// want is the version that is enforced: what is offered or, while that is held back, what runs. Nil: to be removed.
	want           *v1alpha1.TargetBundle
	wantPrint      string
	wantGeneration int64
	// held says why want is not what is offered, or not done yet.
	held    *holdback
	refusal *holdback // of what was refused for what it is
	// suspended by a person: nothing is done.
	suspended bool
	// recorded is what the last apply left; nil before the first.
	recorded      *Record
	recordedPrint string
	// secrets are texts that nothing told of the bundle may show; those of the version before, too, where it may run yet.
	secrets []string

	todo     bool // what is wanted is yet to be brought to the cluster, or to be removed from it
	busy     bool // a worker is at it
	deployed bool // what is wanted was brought to the cluster
	healthy  bool // and all of it is ready
	again    bool // what it reads changed while a worker was at it
	fresh    bool // not tried yet since the agent started

	attempts int
	begun    time.Time // the first attempt at what is wanted
	retryAt  time.Time
	deadline time.Time // of readiness

	base standing // by itself; what is shown adds why it is held back
	standing
	since   time.Time
	changed bool   // and not yet published
	told    string // which standing was the last event
}

// standing is how a bundle stands, as it is reported.
type standing struct {
	state   v1alpha1.State
	reason  Reason
	message string

	objects, ready int
	problems       []v1alpha1.Problem
}

// stand sets how the bundle stands by itself.
func (u *unit) stand(s standing, now time.Time) {
	u.base = s
	u.derive(now)
}

// derive sets what is shown of how the bundle stands; since moves only when the state does.
func (u *unit) derive(now time.Time) {
	s := u.base
	if u.held != nil {
		s = u.held.show(s)
	}
	if u.suspended {
		s = showSuspended(s)
	}
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
	case u.suspended:
		return true
	case u.held != nil && u.held.reason == ReasonDependencyWaiting:
		return false
	case u.todo:
		return u.blocked() || u.state == v1alpha1.StateFailed || u.state == v1alpha1.StateRefused
	default:
		return u.healthy || u.state == v1alpha1.StateFailed || now.After(u.deadline)
	}
}

// moved reports whether the old version must be removed before the new one is brought: it is kept in another way or,
// for a release, under another name.
func moved(old, next *v1alpha1.TargetBundle) bool {
	if old.Method != next.Method {
		return true
	}
	return old.Method == v1alpha1.MethodRelease && (old.Namespace != next.Namespace || old.Release.Name != next.Release.Name)
}

// plan merges a target into the units: what it offers, and what left it. [aim] decides what comes of that.
func plan(units map[string]*unit, target *v1alpha1.Target) {
	wanted := make(map[string]bool, len(target.Bundles))
	for i := range target.Bundles {
		bundle := &target.Bundles[i]
		wanted[bundle.Name] = true
		one := units[bundle.Name]
		if one == nil {
			one = &unit{name: bundle.Name}
			units[bundle.Name] = one
		}
		one.offer(bundle, target.Generation)
	}
	for name, one := range units {
		switch {
		case wanted[name]:
		case one.recorded == nil && !one.busy:
			delete(units, name)
		default:
			one.offer(nil, target.Generation)
		}
	}
}

// choose returns the units to start now, in order of their names. What left goes when the wanted ones were tried. At
// most limit units are busy.
func choose(units map[string]*unit, now time.Time, limit int) []*unit {
	names := make([]string, 0, len(units))
	busy, untried := 0, false
	for name, one := range units {
		names = append(names, name)
		if one.busy {
			busy++
		}
		untried = untried || one.untried()
	}
	slices.Sort(names)
	var chosen []*unit
	for _, name := range names {
		one := units[name]
		if one.busy || !one.todo || one.blocked() || now.Before(one.retryAt) {
			continue
		}
		if one.want == nil && (untried || needed(units, one)) {
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

// untried reports whether a wanted bundle is yet to be tried, now or soon.
func (u *unit) untried() bool {
	if u.want == nil || u.suspended {
		return false
	}
	if u.held != nil {
		return u.held.reason == ReasonDependencyWaiting
	}
	return u.busy || u.todo && u.attempts == 0
}

// needed reports whether a bundle that is also leaving depends on this one: it goes first.
func needed(units map[string]*unit, one *unit) bool {
	for _, other := range units {
		if other.planned && other.offered == nil && other != one && other.recorded != nil && slices.Contains(other.recorded.Bundle.DependsOn, one.name) {
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
