package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// startUnit brings a bundle to the cluster, or takes one away that left.
func (a *Agent) startUnit(ctx context.Context, one *unit) {
	one.busy, one.again = true, false
	inUse := a.namespaces(one.name)
	recorded := one.recorded
	now := a.now()
	if one.attempts == 0 {
		a.stand(one, standing{
			state: v1alpha1.StateUpdating, reason: ReasonReconciling, message: "is being applied",
			objects: one.objects, ready: one.ready,
		})
	}
	if one.want == nil {
		record := *recorded
		a.work(ctx, func(ctx context.Context) func() {
			done := a.remove(ctx, record, inUse)
			return func() { a.unitDone(one, nil, done, now) }
		})
		return
	}
	if one.begun.IsZero() {
		one.begun = now
	}
	want, generation := *one.want, one.wantGeneration
	a.work(ctx, func(ctx context.Context) func() {
		done := a.deploy(ctx, want, generation, recorded, inUse)
		return func() { a.unitDone(one, &want, done, now) }
	})
}

// unitDone notes what a worker did with a bundle. The target may have changed meanwhile: then it is still to do.
func (a *Agent) unitDone(one *unit, want *v1alpha1.TargetBundle, done outcome, started time.Time) {
	now := a.now()
	fresh := one.fresh
	one.busy, one.fresh = false, false
	current := want == nil && one.want == nil || want != nil && one.want != nil && fingerprint(want) == one.wantPrint
	one.record(done.record)
	one.conceal(done)
	a.account(one, done, now.Sub(started))
	a.tellApplied(one, done)
	switch {
	case done.err != nil:
		one.attempts++
		a.fail(one, done.err, now)
		if current && one.want != nil && now.Sub(one.begun) > timeoutOf(one.want) {
			a.rollBack(one, one.reason, one.message, now)
		}
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
		one.todo, one.deployed = one.again, !one.again
		one.again = false
		a.settleDrift(one, started)
		if fresh && want.Method == v1alpha1.MethodRelease {
			for _, ref := range done.record.Inventory { // it did not change: what became of it meanwhile?
				a.suspect(one.name, ref, now)
			}
		}
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
		if one.state != state || one.reason != reason {
			a.metrics.refused(reason)
		}
		one.retryAt = now.Add(idleTick)
		if one.want != nil && !one.behind() {
			one.refusal = &holdback{state: state, reason: reason, message: oneLine(err).Error(), until: one.retryAt}
		}
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
		deadline   time.Time
		late       bool // its time to become ready is over
		health     apply.Health
		err        error
	}
	var looks []*look
	updating := false
	for _, one := range a.units {
		if one.deployed && !one.busy && (a.watched(one) || a.drift.touched.Has(one.name)) {
			late := !one.healthy && now.After(one.deadline)
			looks = append(looks, &look{one: one, deadline: one.deadline, late: late, deployment: Deployment{
				Bundle: one.recorded.Bundle, Previous: one.recorded.Inventory, Recheck: late && one.base.reason != ReasonTimedOut,
			}})
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
				if one.one.deployed && !one.one.busy && one.one.deadline.Equal(one.deadline) { // nothing was deployed meanwhile
					a.seen(one.one, one.health, one.err, one.late)
				}
			}
		}
	})
}

// watched reports whether a deployed bundle is looked at even when nothing tells of a change.
func (a *Agent) watched(one *unit) bool {
	return one.deployed && !one.healthy
}

// seen notes a bundle's health; late is whether its time to become ready was over before that was asked for.
func (a *Agent) seen(one *unit, health apply.Health, err error, late bool) {
	now := a.now()
	err = hide(err, one.secrets)
	health.Problems = hideProblems(health.Problems, one.secrets)
	if err != nil {
		a.log.Debug("health is unknown", "stage", StageHealth, "bundle", one.name, "error", err)
		if late && one.state == v1alpha1.StateUpdating {
			a.stand(one, standing{state: v1alpha1.StateFailed, reason: ReasonNotReady, message: err.Error(), objects: one.objects})
		}
		return
	}
	before, wasHealthy := one.state, one.healthy
	if one.healthy = health.Ready >= health.Total && !health.Failed || !waits(one); one.healthy {
		a.proven(one)
	}
	if one.healthy && !wasHealthy {
		a.metrics.observe("health", now.Sub(one.deadline)+timeoutOf(&one.recorded.Bundle))
	}
	if wasHealthy && !one.healthy {
		one.deadline = now.Add(timeoutOf(&one.recorded.Bundle)) // it was ready, and is given time again
	}
	judged := judge(one, health, late)
	a.stand(one, withDrift(judged, a.drift.findings[one.name]))
	if judged.state == v1alpha1.StateFailed {
		a.rollBack(one, judged.reason, judged.message, now)
	}
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
func judge(one *unit, health apply.Health, late bool) standing {
	next := standing{objects: health.Total, ready: health.Ready, problems: health.Problems, message: describeHealth(health)}
	switch {
	case health.Ready >= health.Total && !health.Failed, !waits(one):
		next.state, next.reason = v1alpha1.StateReady, ReasonReady
	case health.Failed:
		next.state, next.reason = v1alpha1.StateFailed, ReasonNotReady
	case late:
		next.state, next.reason = v1alpha1.StateFailed, ReasonTimedOut
	default:
		next.state, next.reason = v1alpha1.StateUpdating, ReasonReconciling
	}
	return next
}

// waits reports whether a deployed bundle is Ready only when its objects are.
func waits(one *unit) bool {
	return one.recorded == nil || one.recorded.Bundle.Health.Wait == nil || *one.recorded.Bundle.Health.Wait
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
