package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/window"
)

// holdback says why the version that the target offers is not brought to the cluster yet. Meanwhile what runs is
// enforced: its drift is corrected, and it comes back after a restart.
type holdback struct {
	state   v1alpha1.State // how the bundle stands meanwhile, where nothing is worse
	reason  Reason
	message string
	until   time.Time // when to decide again; zero when something else will tell
}

// show lets a holdback show in how a bundle stands. What is wrong with the version that runs is worse than waiting.
func (h *holdback) show(s standing) standing {
	better := s.state == v1alpha1.StateReady || s.state == ""
	if h.state != v1alpha1.StateWaiting {
		better = s.state != v1alpha1.StateUpdating
	}
	if !better {
		return s
	}
	s.state, s.reason, s.message = h.state, h.reason, h.message
	return s
}

// rules decide one after the other whether a bundle's version is held back: the first that does is told. Each is pure.
// dependencies come last: they cost most.
var rules = []func(unit *unit, in circumstances) *holdback{
	refusedBefore, failedBefore, outsideWindow, dependenciesUnready,
}

// circumstances are what rules decide by.
type circumstances struct {
	now   time.Time
	units map[string]*unit
	// windows are the cluster's own.
	windows []v1alpha1.Window
	// failed are the bundles that will not become ready by themselves.
	failed map[string]bool
}

// heldBack says why what the target wants of a bundle is not done yet; nil when it may be done.
func heldBack(one *unit, in circumstances) *holdback {
	for _, rule := range rules {
		if held := rule(one, in); held != nil {
			return held
		}
	}
	return nil
}

// refusedBefore holds back what was refused for what it is, until it is time to look at it again.
func refusedBefore(one *unit, in circumstances) *holdback {
	if one.refusal != nil && in.now.Before(one.refusal.until) {
		return one.refusal
	}
	return nil
}

// failedBefore holds back a version that was rolled back. The target has to change before it is tried again.
func failedBefore(one *unit, _ circumstances) *holdback {
	if one.offered == nil || one.recorded == nil || one.recorded.Failed == nil || one.recorded.Failed.Print != one.offeredPrint {
		return nil
	}
	failed := one.recorded.Failed
	return &holdback{
		state: v1alpha1.StateFailed, reason: ReasonRolledBack,
		message: fmt.Sprintf("%s failed (%s: %s) and was rolled back to %s; it is not tried again until the target changes",
			short(failed.Digest), failed.Reason, failed.Message, short(failed.To)),
	}
}

// outsideWindow holds back what would change something that runs. What isn't there yet cannot be disturbed: first
// installs don't wait, so that a new cluster comes up at once.
func outsideWindow(one *unit, in circumstances) *holdback {
	if one.recorded == nil || one.offered != nil && one.offeredPrint == one.recordedPrint {
		return nil // what was begun is finished, too
	}
	own := one.recorded.Bundle.Windows
	if one.offered != nil {
		own = one.offered.Windows
	}
	open, next := window.Open(in.now, in.windows, own)
	if open {
		return nil
	}
	held := &holdback{state: v1alpha1.StateWaiting, reason: ReasonWaitingForWindow, until: next}
	what := "its removal"
	if one.offered != nil {
		what = "version " + short(one.offered.Digest)
	}
	held.message = fmt.Sprintf("%s waits for the window that opens at %s", what, stamp(next))
	if next.IsZero() {
		held.message = what + " waits for a window, and none opens within two years"
	}
	return held
}

// dependenciesUnready holds back what depends on bundles that are not ready. What ran already before the agent started
// is enforced at once: its dependencies were ready when it came.
func dependenciesUnready(one *unit, in circumstances) *holdback {
	if one.offered == nil || len(one.offered.DependsOn) == 0 ||
		one.deployed && one.wantPrint == one.offeredPrint ||
		one.fresh && one.recorded != nil && one.recorded.Complete && one.recordedPrint == one.offeredPrint {
		return nil
	}
	var failed, waiting []string
	for _, name := range one.offered.DependsOn {
		switch dependency := in.units[name]; {
		case dependency == nil || in.failed[name]:
			failed = append(failed, name)
		case !dependency.satisfied():
			waiting = append(waiting, name)
		}
	}
	held := &holdback{state: v1alpha1.StateWaiting}
	switch {
	case len(failed) > 0:
		held.reason = ReasonDependencyFailed
		held.message = "waits for " + strings.Join(failed, ", ") + ", which failed"
	case len(waiting) > 0:
		held.reason = ReasonDependencyWaiting
		held.message = "waits for " + strings.Join(waiting, ", ") + " to become ready"
	default:
		return nil
	}
	return held
}

// aim decides for every bundle which version is brought to the cluster and kept there: the one that the target offers
// or, while that is held back, the one that runs.
func aim(in circumstances) {
	in.failed = failures(in.units)
	for _, one := range in.units {
		if !one.planned {
			continue // without a target nothing changes
		}
		one.held = heldBack(one, in)
		want, generation := one.offered, one.generation
		if one.held != nil {
			if fallback, from := one.fallback(); fallback != nil {
				want, generation = fallback, from
			}
		}
		one.pursue(want, generation)
		one.derive(in.now)
	}
}

// fallback is what is enforced while the offered version is held back: what runs, or the last good version when that is
// what failed; nil when there is neither.
func (u *unit) fallback() (*v1alpha1.TargetBundle, int64) {
	switch {
	case u.recorded == nil:
		return nil, 0
	case u.recorded.Failed != nil && u.recorded.Failed.Print == u.recordedPrint:
		if u.recorded.LastGood == nil {
			return nil, 0
		}
		return &u.recorded.LastGood.Bundle, u.recorded.LastGood.Generation
	}
	return &u.recorded.Bundle, u.recorded.Generation
}

// pursue sets which version is brought to the cluster; nil removes the bundle.
func (u *unit) pursue(want *v1alpha1.TargetBundle, generation int64) {
	print := ""
	switch {
	case want == nil:
	case want == u.offered:
		print = u.offeredPrint
	case u.recorded != nil && want == &u.recorded.Bundle:
		print = u.recordedPrint
	default:
		print = fingerprint(want)
	}
	was := u.want
	u.want, u.wantGeneration = want, generation
	if (was == nil) == (want == nil) && print == u.wantPrint && (want != nil || u.todo) {
		return // it runs, its worker is at it, or it is tried again
	}
	u.wantPrint = print
	u.todo, u.deployed, u.healthy = true, false, false
	u.attempts, u.retryAt, u.begun = 0, time.Time{}, time.Time{}
}

// behind reports whether something else than what the target offers is enforced.
func (u *unit) behind() bool { return u.offered != nil && u.wantPrint != u.offeredPrint }

// blocked reports whether the bundle may not be touched now.
func (u *unit) blocked() bool {
	return u.suspended || u.held != nil && u.want != nil && u.want == u.offered
}

// satisfied reports whether what depends on the bundle may come.
func (u *unit) satisfied() bool { return u.deployed && u.healthy && !u.behind() }

// failures returns the bundles that will not become ready by themselves: they failed, or wait for one that did.
func failures(units map[string]*unit) map[string]bool {
	failed := make(map[string]bool, len(units))
	var visit func(name string) bool
	visit = func(name string) bool {
		if known, visited := failed[name]; visited {
			return known
		}
		failed[name] = false
		one := units[name]
		switch {
		case one == nil:
			failed[name] = true
		case one.satisfied():
		case one.state == v1alpha1.StateFailed || one.state == v1alpha1.StateRefused:
			failed[name] = true
		case one.offered != nil && (one.todo || one.behind()):
			failed[name] = slices.ContainsFunc(one.offered.DependsOn, visit)
		}
		return failed[name]
	}
	for name := range units {
		visit(name)
	}
	return failed
}

// offer sets the version that the target asks for; nil for a bundle that left it.
func (u *unit) offer(bundle *v1alpha1.TargetBundle, generation int64) {
	u.planned = true
	if bundle == nil {
		u.offered, u.offeredPrint = nil, ""
		u.generation = generation
		return
	}
	before := u.offeredPrint
	u.offered, u.offeredPrint = bundle, fingerprint(bundle)
	if u.refusal != nil {
		u.refusal, u.attempts, u.retryAt = nil, 0, time.Time{} // another target may mend it
	}
	switch {
	case u.recorded != nil && u.recordedPrint == u.offeredPrint:
		u.generation = u.recorded.Generation
	case before != u.offeredPrint:
		u.generation = generation
	}
	if before == u.offeredPrint && u.todo {
		u.retryAt = time.Time{} // a new target is a good time to try again
	}
}

// record sets what the last apply left.
func (u *unit) record(record *Record) {
	u.recorded, u.recordedPrint = record, ""
	if record != nil {
		u.recordedPrint = fingerprint(&record.Bundle)
	}
}

// fingerprint identifies a version of a bundle: everything that what is brought to the cluster depends on, as a
// document, in which an empty list is an absent one. When it may come, and what happens when it fails, is not part of it.
func fingerprint(bundle *v1alpha1.TargetBundle) string {
	version := *bundle
	version.Windows, version.OnFailure = nil, ""
	data, err := json.Marshal(&version)
	if err != nil {
		return "" // values are JSON types only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
