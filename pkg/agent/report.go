package agent

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// EnvelopeSigner signs a payload with the cluster's own key, as a DSSE envelope.
type EnvelopeSigner interface {
	SignEnvelope(ctx context.Context, payloadType string, payload []byte) ([]byte, error)
}

// How long changes are gathered before they are told, while more are to be expected. Once everything has settled it is
// told at once.
const (
	objectsDebounce = time.Second
	reportDebounce  = 5 * time.Second
)

// delivery is something that is told to others: when it is due, and how it went.
type delivery struct {
	at       time.Time // zero when there is nothing to tell
	busy     bool
	failures int
}

// touch makes it due at that time, or before where it is already; after a failure it waits for its pause.
func (d *delivery) touch(at time.Time) {
	if d.at.IsZero() || d.failures == 0 && at.Before(d.at) {
		d.at = at
	}
}

func (d *delivery) due() time.Time {
	if d.busy || d.at.IsZero() {
		return time.Now().Add(idleTick)
	}
	return d.at
}

// finish notes how a delivery went; a failed one is tried again.
func (d *delivery) finish(err error, now time.Time) {
	d.busy = false
	if err == nil {
		d.failures = 0
		return
	}
	d.failures++
	d.at = now.Add(max(pause(d.failures, firstPause, longPause), retryAfter(err)))
}

// publish tells what changed: to the cluster as BundleDeployments, to the registry as a status report.
func (a *Agent) publish(ctx context.Context, now time.Time) {
	settled := a.pulled || a.target != nil
	for _, one := range a.units {
		settled = settled && one.settled(now)
		if one.changed {
			one.changed = false
			a.metrics.bundle(one.name, one.standing)
			a.tellStanding(one)
			a.objects.touch(now.Add(objectsDebounce))
			a.report.touch(now.Add(reportDebounce))
		}
	}
	if stale := a.isStale(now); stale != a.stale {
		a.stale = stale
		a.metrics.stale(stale)
		a.report.touch(now)
		if stale {
			a.log.Warn("the target in force has expired; what runs keeps running and drift is still corrected",
				"stage", StageAccept, "expired", stamp(a.target.ExpiresAt.Time), "mend", "publish again, or mend the link to the registry")
		}
	}
	if settled {
		a.hurry(now)
	}
	if a.cfg.Objects != nil && !a.objects.busy && !a.objects.at.IsZero() && !now.Before(a.objects.at) {
		a.startObjects(ctx)
	}
	if a.cfg.Signer != nil && !a.report.busy && a.pulled {
		a.startReport(ctx, now)
	}
	if a.cfg.Objects == nil {
		a.objects.at = time.Time{}
	}
	if a.cfg.Signer == nil {
		a.report.at = time.Time{}
	}
}

// hurry ends the debounce; pauses after failures stay.
func (a *Agent) hurry(now time.Time) {
	for _, d := range []*delivery{&a.objects, &a.report} {
		if !d.at.IsZero() {
			d.touch(now)
		}
	}
}

// told reports whether everything was told, or could not be.
func (a *Agent) told(time.Time) bool {
	objects := a.cfg.Objects == nil || !a.objects.busy && (a.objects.at.IsZero() || a.objects.failures > 0)
	report := a.cfg.Signer == nil || !a.report.busy && (a.sameReport(a.statusReport()) || a.report.failures > 0)
	return objects && report
}

// prepareObjects has the cluster made ready for BundleDeployments while the first target is on its way. Where that fails,
// the first write tries again and says why.
func (a *Agent) prepareObjects(ctx context.Context) {
	if a.cfg.Objects == nil {
		return
	}
	a.objects.busy = true
	a.work(ctx, func(ctx context.Context) func() {
		err := a.cfg.Objects.Prepare(ctx)
		return func() {
			if err != nil {
				a.log.Debug("the cluster is not ready for BundleDeployments", "stage", StageReport, "error", err)
			}
			a.objects.busy = false
		}
	})
}

func (a *Agent) startObjects(ctx context.Context) {
	deployments, events := a.deployments(), a.events
	a.objects.busy, a.objects.at, a.events = true, time.Time{}, nil
	a.work(ctx, func(ctx context.Context) func() {
		err := a.cfg.Objects.Write(ctx, deployments)
		var untold error
		if err == nil && len(events) > 0 {
			untold = a.cfg.Events.Emit(ctx, events)
		}
		return func() {
			if err != nil {
				a.log.Warn("BundleDeployments were not written; they are tried again", "stage", StageReport, "error", err)
				a.events = append(events, a.events...)
				a.events = a.events[max(0, len(a.events)-maxEvents):]
			}
			if untold != nil {
				a.log.Warn("events were not written", "stage", StageReport, "error", untold)
			}
			a.objects.finish(err, a.now())
		}
	})
}

// startReport sends a report that says something new, or the heartbeat.
func (a *Agent) startReport(ctx context.Context, now time.Time) {
	heartbeat := !now.Before(a.heartbeat()) && a.report.failures == 0
	if !heartbeat && (a.report.at.IsZero() || now.Before(a.report.at)) {
		return
	}
	report := a.statusReport()
	if !heartbeat && a.sameReport(report) {
		a.report.at, a.report.failures = time.Time{}, 0 // it is as it was told; the heartbeat goes on
		return
	}
	a.report.busy, a.report.at = true, time.Time{}
	known := !a.factsAt.IsZero() && now.Sub(a.factsAt) < a.cfg.Heartbeat
	facts := a.facts
	a.work(ctx, func(ctx context.Context) func() {
		if a.cfg.Facts != nil && !known {
			facts = a.cfg.Facts(ctx)
			report.Nodes, report.Architectures = facts.Nodes, facts.Architectures
		}
		err := a.send(ctx, report)
		return func() {
			if !known {
				a.facts, a.factsAt = facts, a.now()
			}
			finished := a.now()
			if err == nil {
				a.published, a.beat = report, finished.Add(jitter(a.cfg.Heartbeat))
			} else {
				a.log.Warn("the status report was not sent; it is tried again", "stage", StageReport, "error", err)
			}
			a.report.finish(err, finished)
			a.metrics.reported(err)
		}
	})
}

// heartbeat is when an unchanged status is sent again.
func (a *Agent) heartbeat() time.Time {
	if a.cfg.Signer == nil || a.report.busy || a.report.failures > 0 || a.beat.IsZero() {
		return a.now().Add(idleTick) // what failed is tried again at its own time
	}
	return a.beat
}

func (a *Agent) sameReport(report v1alpha1.StatusReport) bool {
	report.ReportedAt = a.published.ReportedAt
	return reflect.DeepEqual(report, a.published)
}

// isStale reports whether the target in force is past its time.
func (a *Agent) isStale(now time.Time) bool {
	return a.target != nil && expired(a.target, a.known(), now)
}

// statusReport says how everything stands.
func (a *Agent) statusReport() v1alpha1.StatusReport {
	now := a.now()
	report := v1alpha1.StatusReport{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindStatusReport},
		Fleet:    a.cfg.Fleet, Cluster: a.cfg.Cluster, Agent: a.cfg.Version, Kubernetes: a.version,
		ReportedAt: second(now),
		Bundles:    make([]v1alpha1.ReportedBundle, 0, len(a.units)),
	}
	if a.target != nil {
		report.Target = v1alpha1.ReportedTarget{
			Digest: a.manifest.Digest.String(), Generation: a.target.Generation, Stale: a.isStale(now),
		}
	}
	if a.problem != nil {
		report.Problem = problemOf(a.problem)
	}
	for _, one := range a.units {
		report.Bundles = append(report.Bundles, reported(one))
	}
	report.Rollouts, report.LastGood, report.Drift = a.reportedRollouts(), a.lastGood, a.driftNotes
	report.Nodes, report.Architectures = a.facts.Nodes, a.facts.Architectures
	slices.SortFunc(report.Bundles, func(x, y v1alpha1.ReportedBundle) int { return strings.Compare(x.Name, y.Name) })
	return report
}

// reported says how one bundle stands.
func reported(one *unit) v1alpha1.ReportedBundle {
	bundle := v1alpha1.ReportedBundle{
		Name: one.name, State: one.state, Since: second(one.since), Reason: string(one.reason),
		Message: one.message, Objects: one.objects, Ready: one.ready, Problems: one.problems,
	}
	switch {
	case one.offered != nil:
		bundle.Digest = one.offered.Digest
	case one.recorded != nil:
		bundle.Digest = one.recorded.Bundle.Digest
	}
	return bundle
}

// problemOf puts an error into the report's words; an Error's subject and mend are in its text.
func problemOf(err error) *v1alpha1.Problem {
	var typed *Error
	if !errors.As(err, &typed) {
		return &v1alpha1.Problem{Reason: string(ReasonUnreachable), Message: oneLine(err).Error()}
	}
	return &v1alpha1.Problem{Object: string(typed.Stage), Reason: string(typed.Reason), Message: oneLine(err).Error()}
}

// second cuts a time to what JSON keeps of it, so that equal reports compare equal.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }
