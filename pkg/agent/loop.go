package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const (
	// healthTick is how often bundles that are not ready yet are looked at; the answers come from memory.
	healthTick = 500 * time.Millisecond
	// failedTick is the same for bundles that failed: they may recover.
	failedTick = 10 * time.Second
	// DefaultTimeout of readiness, where the bundle says nothing.
	DefaultTimeout = 5 * time.Minute
	// idleTick bounds how long the loop sleeps when nothing is due.
	idleTick = 10 * time.Minute
)

// loop decides and starts what is due, waits for what comes first, and begins again until over says so or ctx ends. It
// is the only goroutine that touches the agent's state.
func (a *Agent) loop(ctx context.Context, over func() bool) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		a.turned.Store(int64(a.age()))
		a.step(ctx)
		if over() {
			return nil
		}
		timer.Reset(max(0, a.next().Sub(a.now())))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case result := <-a.results:
			result()
		case <-a.hints:
			a.hinted = afterHint
			a.lookNow()
		case event := <-a.driftEvents():
			a.drifted(event)
		case ref := <-a.localChanges():
			a.localChanged(ref)
		case command := <-a.commands:
			command()
		}
	}
}

// step starts everything that is due.
func (a *Agent) step(ctx context.Context) {
	now := a.now()
	if !a.pulling && !now.Before(a.pullAt) {
		a.startPull(ctx)
	}
	if a.gates.due && !a.gates.busy && a.target != nil {
		a.startGates(ctx)
	}
	a.turnGates(now)
	a.aim(now)
	a.followLocal()
	for _, one := range choose(a.units, now, a.cfg.Parallel) {
		a.startUnit(ctx, one)
	}
	a.repair(ctx, now)
	if !a.looking && !now.Before(a.lookAt) {
		a.startLook(ctx, now)
	}
	a.noteGood()
	a.ready.Store(a.target != nil && !a.untried())
	a.publish(ctx, now)
}

// aim decides which version of each bundle is enforced.
func (a *Agent) aim(now time.Time) {
	in := circumstances{now: now, units: a.units}
	if a.target != nil {
		in.windows = a.target.Windows
	}
	for _, one := range a.units {
		one.suspended = a.suspended.has(one.name)
	}
	aim(in)
}

// next is when something is due again.
func (a *Agent) next() time.Time {
	due := a.now().Add(idleTick)
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if !a.pulling {
		sooner(a.pullAt)
	}
	for _, one := range a.units {
		if one.held != nil && !one.held.until.IsZero() {
			sooner(one.held.until)
		}
		switch {
		case one.busy || one.suspended:
		case one.todo && !one.retryAt.IsZero():
			sooner(one.retryAt)
		case !a.looking && (a.watched(one) || a.drift.touched.Has(one.name)):
			sooner(a.lookAt)
		}
	}
	if !a.gates.deadline.IsZero() {
		sooner(a.gates.deadline)
	}
	sooner(a.objects.due())
	sooner(a.report.due())
	sooner(a.heartbeat())
	sooner(a.nextRepair())
	return due
}

// work runs do beside the loop, on copies; what it returns runs on the loop.
func (a *Agent) work(ctx context.Context, do func(context.Context) func()) {
	a.workers.Go(func() {
		result := do(ctx)
		select {
		case a.results <- result:
		case <-ctx.Done():
		}
	})
}

// stop waits for all workers, which ctx has ended already.
func (a *Agent) stop() {
	a.workers.Wait()
	for _, one := range a.units {
		one.busy = false
	}
	a.pulling, a.looking, a.objects.busy, a.report.busy, a.gates.busy = false, false, false, false, false
}

// hintSpacing bounds how often hints, which may come from anybody, make the agent ask the registry.
const hintSpacing = 500 * time.Millisecond

// afterHint is when the registry is looked at again after a hint: distribution notifies before it moves the tag, a mirror
// lags, and a hint may come while an older answer is on its way.
var afterHint = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second}

// lookNow has the registry looked at as soon as that is allowed.
func (a *Agent) lookNow() {
	if a.pullAt = a.looked.Add(hintSpacing); a.pullAt.Before(a.now()) {
		a.pullAt = a.now()
	}
	if a.pullAt.Before(a.quiet) {
		a.pullAt = a.quiet
	}
}

// startPull looks at the registry.
func (a *Agent) startPull(ctx context.Context) {
	a.pulling, a.looked = true, a.now()
	inForce := &a.manifest
	if a.target == nil || !a.complete {
		inForce = nil
	}
	running, kept := a.running(), a.kept()
	a.work(ctx, func(ctx context.Context) func() {
		started := a.now()
		result, err := a.pull(ctx, inForce, running, kept)
		return func() { a.pullDone(result, err, started) }
	})
}

// followHint looks once more after a hint, each time later.
func (a *Agent) followHint(now time.Time) {
	if len(a.hinted) == 0 {
		return
	}
	if again := now.Add(a.hinted[0]); again.Before(a.pullAt) && !again.Before(a.quiet) {
		a.pullAt = again
	}
	a.hinted = a.hinted[1:]
}

// pullDone brings a new target into force, or notes why not, and sets when to look again.
func (a *Agent) pullDone(result *taken, err error, started time.Time) {
	a.pulling, a.pulled = false, true
	now := a.now()
	defer func() { a.followHint(now) }()
	if err != nil {
		a.failures++
		a.metrics.poll("error", now)
		a.trouble(err)
		// The first retries come sooner than the next poll, later ones never more often than it.
		asked := retryAfter(err)
		a.quiet = now.Add(asked)
		a.pullAt = now.Add(max(pause(a.failures, min(firstPause, a.interval()), a.interval()), asked))
		return
	}
	if a.failures > 0 && a.report.failures > 0 && !a.report.busy {
		a.report.failures, a.report.at = 0, now // the link is back: what could not be told is told now
	}
	a.failures, a.gates.due = 0, true
	if a.problem != nil {
		a.problem = nil
		a.report.touch(now)
		a.objects.touch(now)
	}
	a.pullAt = now.Add(jitter(a.interval()))
	if result == nil {
		a.metrics.poll("unchanged", now)
		if !a.complete && a.target != nil {
			a.pullAt = now // damage was found while we looked
		}
		a.log.Debug("the target is current", "stage", StageResolve, "digest", a.manifest.Digest)
		return
	}
	a.metrics.poll("new", now)
	a.log.Info("a new target is in force", "stage", StageAccept, "generation", result.target.Generation,
		"digest", result.manifest.Digest, "bundles", len(result.target.Bundles), "fetched", result.fetched,
		"signers", result.signers, "duration", now.Sub(started))
	a.tell(Event{Reason: ReasonTargetTaken, Message: fmt.Sprintf("generation %d is in force: %d bundles, signed by %s",
		result.target.Generation, len(result.target.Bundles), strings.Join(result.signers, ", "))})
	a.force(result.target, result.manifest)
	a.pullAt = now.Add(jitter(a.interval()))
	a.report.touch(now.Add(reportDebounce))
}

// trouble notes why the newest target is not in force; the same trouble is told once.
func (a *Agent) trouble(err error) {
	if a.problem == nil || a.problem.Error() != err.Error() {
		var typed *Error
		stage, reason := StageResolve, ReasonUnreachable
		if errors.As(err, &typed) {
			stage, reason = typed.Stage, typed.Reason
		}
		a.log.Error("the newest target was not taken; what runs keeps running", "stage", stage, "reason", reason, "error", err)
		a.metrics.refused(reason)
		if reason != ReasonUnreachable {
			a.tell(Event{Bundle: a.concerned(err), Warning: true, Reason: reason, Message: oneLine(err).Error()})
		}
		a.objects.touch(a.now().Add(objectsDebounce))
		a.report.touch(a.now().Add(reportDebounce))
	}
	a.problem = err
}

// concerned names the bundle that kept a target from being taken, where there is one on this cluster.
func (a *Agent) concerned(err error) string {
	var typed *Error
	if errors.As(err, &typed) && a.units[typed.Bundle] != nil {
		return typed.Bundle
	}
	return ""
}

// interval between polls: this agent's own, the fleet's, or the default.
func (a *Agent) interval() time.Duration {
	switch {
	case a.cfg.Interval > 0:
		return a.cfg.Interval
	case a.target != nil && a.target.Interval.Duration > 0:
		return a.target.Interval.Duration
	}
	return DefaultInterval
}

// running lists the bundles that the cluster runs, as they were applied, by name.
func (a *Agent) running() []v1alpha1.TargetBundle {
	var bundles []v1alpha1.TargetBundle
	for _, name := range slices.Sorted(maps.Keys(a.units)) {
		if one := a.units[name]; one.recorded != nil {
			bundles = append(bundles, one.recorded.Bundle)
		}
	}
	return bundles
}

// kept lists every version that may be applied without the registry: what runs, what is on its way, and what a failure
// would be rolled back to.
func (a *Agent) kept() []v1alpha1.TargetBundle {
	kept := a.running()
	for _, one := range a.units {
		for _, version := range []*v1alpha1.TargetBundle{one.offered, one.want} {
			if version != nil {
				kept = append(kept, *version)
			}
		}
		if one.recorded != nil && one.recorded.LastGood != nil {
			kept = append(kept, one.recorded.LastGood.Bundle)
		}
	}
	return kept
}

// namespaces lists the namespaces of all other bundles.
func (a *Agent) namespaces(except string) []string {
	used := sets.New[string]()
	for name, one := range a.units {
		if name == except {
			continue
		}
		if one.want != nil {
			used.Insert(one.want.Namespace)
		}
		if one.offered != nil {
			used.Insert(one.offered.Namespace)
		}
		if one.recorded != nil {
			used.Insert(one.recorded.Bundle.Namespace)
		}
	}
	return sets.List(used)
}

// untried reports whether a wanted bundle was not tried yet.
func (a *Agent) untried() bool {
	for _, one := range a.units {
		if one.untried() {
			return true
		}
	}
	return false
}

// done reports whether a single sync has come to its end: looked, brought what can be brought, and told it.
func (a *Agent) done() bool {
	if !a.pulled || a.pulling || a.looking || a.gates.busy || a.gates.due && a.target != nil {
		return false
	}
	now := a.now()
	for _, one := range a.units {
		if !one.settled(now) {
			return false
		}
	}
	return a.told(now)
}
