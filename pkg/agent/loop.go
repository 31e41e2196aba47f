package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
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
		a.turned.Store(a.now().UnixNano())
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
		}
	}
}

// step starts everything that is due.
func (a *Agent) step(ctx context.Context) {
	now := a.now()
	if !a.pulling && !now.Before(a.pullAt) {
		a.startPull(ctx)
	}
	for _, one := range choose(a.units, now, a.cfg.Parallel) {
		a.startUnit(ctx, one)
	}
	a.repair(ctx, now)
	if !a.looking && !now.Before(a.lookAt) {
		a.startLook(ctx, now)
	}
	a.ready.Store(a.target != nil && !a.untried())
	a.publish(ctx, now)
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
		switch {
		case one.busy:
		case one.todo && !one.retryAt.IsZero():
			sooner(one.retryAt)
		case !a.looking && (a.watched(one) || a.drift.touched.Has(one.name)):
			sooner(a.lookAt)
		}
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
	a.pulling, a.looking, a.objects.busy, a.report.busy = false, false, false, false
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
}

// startPull looks at the registry.
func (a *Agent) startPull(ctx context.Context) {
	a.pulling, a.looked = true, a.now()
	inForce := &a.manifest
	if a.target == nil || !a.complete {
		inForce = nil
	}
	running := a.running()
	a.work(ctx, func(ctx context.Context) func() {
		started := a.now()
		result, err := a.pull(ctx, inForce, running)
		return func() { a.pullDone(result, err, started) }
	})
}

// followHint looks once more after a hint, each time later.
func (a *Agent) followHint(now time.Time) {
	if len(a.hinted) == 0 {
		return
	}
	if again := now.Add(a.hinted[0]); again.Before(a.pullAt) {
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
		a.pullAt = now.Add(max(pause(a.failures, min(firstPause, a.interval()), a.interval()), retryAfter(err)))
		return
	}
	a.failures = 0
	if a.problem != nil {
		a.problem = nil
		a.report.touch(now)
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
	next := a.remembrance()
	next.Target, next.Seen, next.Signers = &result.manifest, now, result.signers
	if err := a.cfg.State.Remember(next); err != nil {
		a.metrics.poll("error", now)
		a.trouble(err)
		return
	}
	a.mu.Lock()
	a.remembered = next
	a.mu.Unlock()
	a.metrics.poll("new", now)
	a.log.Info("a new target is in force", "stage", StageAccept, "generation", result.target.Generation,
		"digest", result.manifest.Digest, "bundles", len(result.target.Bundles), "fetched", result.fetched,
		"signers", result.signers, "duration", now.Sub(started))
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
		a.report.touch(a.now().Add(reportDebounce))
	}
	a.problem = err
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

// startUnit brings a bundle to the cluster, or takes one away that left.
func (a *Agent) startUnit(ctx context.Context, one *unit) {
	one.busy = true
	inUse := a.namespaces(one.name)
	recorded := one.recorded
	now := a.now()
	a.stand(one, standing{
		state: v1alpha1.StateUpdating, reason: ReasonReconciling, message: "is being applied",
		objects: one.objects, ready: one.ready,
	})
	if one.want == nil {
		record := *recorded
		a.work(ctx, func(ctx context.Context) func() {
			done := a.remove(ctx, record, inUse)
			return func() { a.unitDone(one, nil, done, now) }
		})
		return
	}
	want, generation := *one.want, one.generation
	a.work(ctx, func(ctx context.Context) func() {
		done := a.deploy(ctx, want, generation, recorded, inUse)
		return func() { a.unitDone(one, &want, done, now) }
	})
}

// unitDone notes what a worker did with a bundle. The target may have changed meanwhile: then it is still to do.
func (a *Agent) unitDone(one *unit, want *v1alpha1.TargetBundle, done outcome, started time.Time) {
	now := a.now()
	one.busy, one.fresh = false, false
	one.recorded = done.record
	current := want == nil && one.want == nil || want != nil && one.want != nil && same(want, one.want)
	a.account(one, done, now.Sub(started))
	switch {
	case done.err != nil:
		one.attempts++
		a.fail(one, done.err, now)
		if !current {
			one.attempts, one.retryAt = 0, time.Time{}
		}
	case done.removed && one.want == nil && done.record == nil:
		delete(a.units, one.name)
		a.metrics.forget(one.name)
		a.forgetDrift(one.name)
		a.objects.touch(now)
		a.report.touch(now)
	case done.removed && one.want == nil:
		one.attempts++
		one.retryAt = now.Add(pause(one.attempts, firstPause, longPause))
		a.stand(one, standing{state: v1alpha1.StateUpdating, reason: ReasonReconciling, message: "is being removed"})
	case !current:
	default:
		one.todo, one.deployed = false, true
		a.forgetDrift(one.name)
		one.attempts, one.retryAt = 0, time.Time{}
		one.healthy = false
		one.deadline = now.Add(timeoutOf(want))
		a.stand(one, standing{
			state: v1alpha1.StateUpdating, reason: ReasonReconciling, message: "waits for its objects to become ready",
			objects: len(done.record.Inventory), ready: one.ready,
		})
		a.lookAt = now
	}
	a.watchDrift()
}

// timeoutOf a bundle's readiness.
func timeoutOf(bundle *v1alpha1.TargetBundle) time.Duration {
	if bundle.Health.Timeout.Duration > 0 {
		return bundle.Health.Timeout.Duration
	}
	return DefaultTimeout
}

// fail notes why a bundle could not be brought to the cluster, and when to try again. A refusal waits for another
// target: what is in the bundle doesn't change by itself.
func (a *Agent) fail(one *unit, err error, now time.Time) {
	state, reason := v1alpha1.StateFailed, ReasonOf(err, ReasonApplyFailed)
	one.retryAt = now.Add(pause(one.attempts, firstPause, longPause))
	var typed *Error
	if errors.As(err, &typed) && refusal(typed) {
		state = v1alpha1.StateRefused
		one.retryAt = now.Add(idleTick)
	}
	if errors.As(err, &typed) && typed.Stage == StageFetch {
		a.complete, a.pullAt = false, now // its content is damaged: fetch it again
		one.retryAt = now.Add(longPause)  // or when it came
	}
	if one.want == nil {
		reason = ReasonOf(err, ReasonPruneFailed)
	}
	a.stand(one, standing{
		state: state, reason: reason, message: oneLine(err).Error(), objects: one.objects, ready: one.ready,
		problems: []v1alpha1.Problem{{Object: string(stageOf(err)), Reason: string(reason), Message: oneLine(err).Error()}},
	})
}

func stageOf(err error) Stage {
	if typed := (*Error)(nil); errors.As(err, &typed) {
		return typed.Stage
	}
	return StageApply
}

// refusal reports whether a bundle is refused for what it is, rather than failed for what happened.
func refusal(err *Error) bool {
	switch err.Reason {
	case ReasonOutOfScope, ReasonInvalidBundle, ReasonVariableMissing, ReasonUnsafePath, ReasonTooLarge:
		return true
	}
	return err.Stage == StageVerify
}

// stand sets how a bundle stands.
func (a *Agent) stand(one *unit, s standing) {
	one.stand(s, a.now())
}

// startLook asks for the health of what was deployed.
func (a *Agent) startLook(ctx context.Context, now time.Time) {
	type look struct {
		one        *unit
		deployment Deployment
		health     apply.Health
		err        error
	}
	var looks []*look
	updating := false
	for _, one := range a.units {
		if one.deployed && !one.busy && (a.watched(one) || a.drift.touched.Has(one.name)) {
			looks = append(looks, &look{one: one, deployment: Deployment{Bundle: one.recorded.Bundle, Previous: one.recorded.Inventory}})
			updating = updating || one.state != v1alpha1.StateFailed
		}
	}
	if a.lookAt = now.Add(failedTick); updating {
		a.lookAt = now.Add(healthTick)
	}
	if len(looks) == 0 {
		return
	}
	a.looking = true
	a.drift.touched = sets.New[string]()
	a.work(ctx, func(ctx context.Context) func() {
		for _, one := range looks {
			one.health, one.err = a.cfg.Deployers[one.deployment.Bundle.Method].Health(ctx, one.deployment)
		}
		return func() {
			a.looking = false
			for _, one := range looks {
				if one.one.deployed && !one.one.busy {
					a.seen(one.one, one.health, one.err)
				}
			}
		}
	})
}

// watched reports whether a deployed bundle is looked at even when nothing tells of a change.
func (a *Agent) watched(one *unit) bool {
	return one.deployed && !one.healthy
}

// seen notes a bundle's health.
func (a *Agent) seen(one *unit, health apply.Health, err error) {
	now := a.now()
	if err != nil {
		a.log.Debug("health is unknown", "stage", StageHealth, "bundle", one.name, "error", err)
		if now.After(one.deadline) && one.state == v1alpha1.StateUpdating {
			a.stand(one, standing{state: v1alpha1.StateFailed, reason: ReasonNotReady, message: err.Error(), objects: one.objects})
		}
		return
	}
	before, wasHealthy := one.state, one.healthy
	one.healthy = health.Ready >= health.Total && !health.Failed
	if wasHealthy && !one.healthy {
		one.deadline = now.Add(timeoutOf(&one.recorded.Bundle)) // it was ready, and is given time again
	}
	a.stand(one, withDrift(judge(one, health, now), a.drift.findings[one.name]))
	if before != one.state {
		level := a.log.Info
		if one.state == v1alpha1.StateFailed {
			level = a.log.Warn
		}
		level("bundle is "+string(one.state), "stage", StageHealth, "bundle", one.name, "digest", one.recorded.Bundle.Digest,
			"objects", health.Total, "ready", health.Ready, "message", one.message)
	}
}

// judge says how a deployed bundle stands by its health.
func judge(one *unit, health apply.Health, now time.Time) standing {
	next := standing{objects: health.Total, ready: health.Ready, problems: health.Problems, message: describeHealth(health)}
	switch {
	case health.Ready >= health.Total && !health.Failed:
		next.state, next.reason = v1alpha1.StateReady, ReasonReady
	case health.Failed:
		next.state, next.reason = v1alpha1.StateFailed, ReasonNotReady
	case now.After(one.deadline):
		next.state, next.reason = v1alpha1.StateFailed, ReasonTimedOut
	default:
		next.state, next.reason = v1alpha1.StateUpdating, ReasonReconciling
	}
	return next
}

// describeHealth sums up what is not ready in one line.
func describeHealth(health apply.Health) string {
	if health.Ready >= health.Total || len(health.Problems) == 0 {
		return ""
	}
	worst := health.Problems[0]
	text := fmt.Sprintf("%s is %s", worst.Object, worst.Reason)
	if worst.Message != "" {
		text += ": " + worst.Message
	}
	if more := health.Total - health.Ready - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// account counts and logs what happened to a bundle's objects.
func (a *Agent) account(one *unit, done outcome, took time.Duration) {
	a.metrics.observe("apply", took)
	attrs := []any{"stage", StageApply, "bundle", one.name, "duration", took}
	if done.record != nil {
		attrs = append(attrs, "digest", done.record.Bundle.Digest)
	}
	counts := map[string]int{}
	for _, change := range done.result.Changes {
		counts[string(change.Action)]++
	}
	for action, count := range counts {
		attrs = append(attrs, action, count)
	}
	switch {
	case done.err != nil && refusalOf(done.err):
		a.log.Error("bundle refused; what runs of it keeps running", append(attrs, "error", done.err)...)
	case done.err != nil:
		a.log.Error("bundle failed; it is tried again", append(attrs, "error", done.err)...)
	case done.removed:
		a.log.Info("bundle removed", attrs...)
	default:
		a.log.Info("bundle applied", attrs...)
	}
}

func refusalOf(err error) bool {
	var typed *Error
	return errors.As(err, &typed) && refusal(typed)
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
		if one.recorded != nil {
			used.Insert(one.recorded.Bundle.Namespace)
		}
	}
	return sets.List(used)
}

// untried reports whether a wanted bundle was not tried yet.
func (a *Agent) untried() bool {
	for _, one := range a.units {
		if one.want != nil && one.todo && one.attempts == 0 && !stuck(a.units, one) {
			return true
		}
	}
	return false
}

// done reports whether a single sync has come to its end: looked, brought what can be brought, and told it.
func (a *Agent) done() bool {
	if !a.pulled || a.pulling || a.looking {
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
