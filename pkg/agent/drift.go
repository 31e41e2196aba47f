package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/agent/drift"
)

// DriftSource tells when something in the cluster differs from what was applied, and repairs single objects. It needs
// no registry. [Drift] is the one for real clusters.
type DriftSource interface {
	// Run watches until ctx ends, and sends on Events.
	Run(ctx context.Context)
	Events() <-chan drift.Event
	// Follow replaces what is watched.
	Follow(bundles map[string]drift.Followed)
	// Check compares one of the bundle's objects with the cluster.
	Check(ctx context.Context, bundle apply.Bundle, object *unstructured.Unstructured) (drift.Verdict, error)
	// Repair applies one of the bundle's objects again.
	Repair(ctx context.Context, bundle apply.Bundle, object *unstructured.Unstructured) apply.Change
}

// Drift watches a cluster.
type Drift struct {
	*drift.Watcher
	applier *apply.Applier
	events  chan drift.Event
	done    chan struct{}
}

// NewDrift returns a source for what the applier applied. It sends nothing before Run.
func NewDrift(applier *apply.Applier, options drift.Options) (*Drift, error) {
	d := &Drift{applier: applier, events: make(chan drift.Event), done: make(chan struct{})}
	watcher, err := drift.New(applier, func(event drift.Event) {
		select {
		case d.events <- event:
		case <-d.done:
		}
	}, options)
	d.Watcher = watcher
	return d, err
}

// Run watches until ctx ends.
func (d *Drift) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { close(d.done) })
	defer stop()
	d.Watcher.Run(ctx)
}

// Events of the watch.
func (d *Drift) Events() <-chan drift.Event { return d.events }

// Check compares one object with the cluster.
func (d *Drift) Check(ctx context.Context, bundle apply.Bundle, object *unstructured.Unstructured) (drift.Verdict, error) {
	return drift.Check(ctx, d.applier, bundle, object)
}

// Repair applies one object again.
func (d *Drift) Repair(ctx context.Context, bundle apply.Bundle, object *unstructured.Unstructured) apply.Change {
	return d.applier.Repair(ctx, bundle, object)
}

// manyObjects is how many drifted objects make it cheaper to apply the whole bundle.
const manyObjects = 50

// driftState is what the loop remembers of drift.
type driftState struct {
	touched  sets.Set[string]                // bundles whose health is to be looked at
	pending  map[string]map[apply.ID]due     // by bundle: objects to compare
	contests map[apply.ID]*drift.Contest     // repairs of each object
	findings map[string]map[apply.ID]finding // by bundle: what is not repaired
	followed map[string]drift.Followed       // as told to the source
}

type due struct {
	ref apply.Ref
	at  time.Time
}

// finding is an object that differs and is left so.
type finding struct {
	ref       apply.Ref
	contested bool
	text      string
}

// repairResult is what a worker found about one object.
type repairResult struct {
	ref     apply.Ref
	act     drift.Act
	verdict drift.Verdict
	until   time.Time
	change  apply.Change
	err     error
}

func (a *Agent) startDrift(ctx context.Context) {
	a.drift = driftState{
		touched: sets.New[string](), pending: map[string]map[apply.ID]due{}, contests: map[apply.ID]*drift.Contest{},
		findings: map[string]map[apply.ID]finding{}, followed: map[string]drift.Followed{},
	}
	if a.cfg.Drift == nil {
		return
	}
	a.workers.Go(func() { a.cfg.Drift.Run(ctx) })
	a.watchDrift()
}

func (a *Agent) driftEvents() <-chan drift.Event {
	if a.cfg.Drift == nil {
		return nil
	}
	return a.cfg.Drift.Events()
}

// watchDrift tells the source what to watch, when that changed.
func (a *Agent) watchDrift() {
	if a.cfg.Drift == nil {
		return
	}
	followed := make(map[string]drift.Followed, len(a.units))
	changed := len(a.units) != len(a.drift.followed)
	for name, one := range a.units {
		if one.recorded == nil {
			continue
		}
		followed[name] = drift.Followed{Inventory: one.recorded.Inventory, Checks: one.recorded.Bundle.Health.Checks}
		before, known := a.drift.followed[name]
		changed = changed || !known || !slices.Equal(before.Inventory, followed[name].Inventory) ||
			!slices.Equal(before.Checks, followed[name].Checks)
	}
	if changed {
		a.drift.followed = followed
		a.cfg.Drift.Follow(followed)
	}
}

// drifted notes an event of the watch.
func (a *Agent) drifted(event drift.Event) {
	one := a.units[event.Bundle]
	if one == nil {
		return
	}
	now := a.now()
	if event.Health {
		a.drift.touched.Insert(one.name)
		a.lookAt = now
	}
	if event.Drifted {
		a.suspect(one.name, event.Ref, now)
	}
}

// suspect has an object compared.
func (a *Agent) suspect(bundle string, ref apply.Ref, at time.Time) {
	if a.drift.pending[bundle] == nil {
		a.drift.pending[bundle] = map[apply.ID]due{}
	}
	a.drift.pending[bundle][ref.ID()] = due{ref: ref, at: at}
}

// repair starts comparing and repairing what may have drifted.
func (a *Agent) repair(ctx context.Context, now time.Time) {
	for name, pending := range a.drift.pending {
		one := a.units[name]
		if one == nil || one.want == nil || one.recorded == nil || one.want.Drift.Mode == v1alpha1.DriftOff {
			delete(a.drift.pending, name)
			continue
		}
		if one.suspended {
			delete(a.drift.pending, name) // it is applied as a whole when it is resumed
			continue
		}
		if one.busy || !one.deployed {
			continue // it is applied anyway; what then still differs is told again
		}
		var refs []apply.Ref
		for id, object := range pending {
			if !now.Before(object.at) {
				refs = append(refs, object.ref)
				delete(pending, id)
			}
		}
		if len(refs) == 0 {
			continue
		}
		a.startRepair(ctx, one, refs)
	}
}

// nextRepair is when an object is compared again.
func (a *Agent) nextRepair() time.Time {
	next := a.now().Add(idleTick)
	for name, pending := range a.drift.pending {
		if one := a.units[name]; one == nil || one.busy || !one.deployed {
			continue
		}
		for _, object := range pending {
			if object.at.Before(next) {
				next = object.at
			}
		}
	}
	return next
}

func (a *Agent) startRepair(ctx context.Context, one *unit, refs []apply.Ref) {
	one.busy = true
	want := *one.want
	now := a.now()
	contests := make(map[apply.ID]drift.Contest, len(refs))
	for _, ref := range refs {
		if contest := a.drift.contests[ref.ID()]; contest != nil {
			contests[ref.ID()] = *contest
		}
	}
	previous := one.recorded.Inventory
	a.work(ctx, func(ctx context.Context) func() {
		results, whole, err := a.compare(ctx, want, previous, refs, contests)
		return func() {
			one.busy = false
			a.repaired(one, results, whole, err, now)
		}
	})
}

// compare looks at each object and repairs it as its mode and its history say. whole means that the bundle is to be
// applied as a whole: too much of it drifted, or what drifted is not an object of its own.
func (a *Agent) compare(ctx context.Context, want v1alpha1.TargetBundle, previous apply.Inventory, refs []apply.Ref,
	contests map[apply.ID]drift.Contest,
) (results []repairResult, whole bool, err error) {
	deployment, err := a.prepare(ctx, &want)
	if err != nil {
		return nil, false, err
	}
	deployment.Previous = previous
	bundle, err := a.cfg.Deployers[want.Method].Applied(ctx, deployment)
	if err != nil {
		return nil, false, hide(err, deployment.secrets)
	}
	objects := make(map[apply.ID]*unstructured.Unstructured, len(bundle.Objects))
	for _, object := range bundle.Objects {
		objects[a.identify(object, bundle.Namespace)] = object
	}
	corrects := want.Drift.Mode != v1alpha1.DriftWarn
	// A release that was made from the same inputs is not made again: its objects are repaired one by one.
	if corrects && len(refs) > manyObjects && want.Method != v1alpha1.MethodRelease {
		return nil, true, nil
	}
	for _, ref := range refs {
		object := objects[ref.ID()]
		if object == nil {
			whole = whole || corrects && ref.Kind == "Namespace" && previous.Has(ref) && a.lost(ctx, bundle, ref)
			continue
		}
		result := repairResult{ref: ref}
		result.verdict, result.err = a.cfg.Drift.Check(ctx, bundle, object)
		if result.err == nil {
			contest := contests[ref.ID()]
			result.act, result.until = drift.Decide(result.verdict, want.Drift.Mode, &contest, a.now())
			if result.act == drift.Repair {
				result.change = a.cfg.Drift.Repair(ctx, bundle, object)
				result.err = result.change.Err
			}
		}
		result.err = hide(result.err, deployment.secrets)
		results = append(results, result)
	}
	return results, whole, nil
}

// lost reports whether a bundle's own namespace is gone; also when that cannot be told.
func (a *Agent) lost(ctx context.Context, bundle apply.Bundle, ref apply.Ref) bool {
	namespace := &unstructured.Unstructured{}
	namespace.SetAPIVersion(ref.APIVersion)
	namespace.SetKind(ref.Kind)
	namespace.SetName(ref.Name)
	verdict, err := a.cfg.Drift.Check(ctx, bundle, namespace)
	return err != nil || verdict.Kind == drift.Missing
}

// identify names an object as the inventory does: with the bundle's namespace where it names none.
func (a *Agent) identify(object *unstructured.Unstructured, namespace string) apply.ID {
	ref := apply.RefOf(object)
	switch {
	case a.clusterKind(object.GroupVersionKind()):
		ref.Namespace = ""
	case ref.Namespace == "":
		ref.Namespace = namespace
	}
	return ref.ID()
}

// repaired notes what was found and done.
func (a *Agent) repaired(one *unit, results []repairResult, whole bool, err error, started time.Time) {
	now := a.now()
	if err != nil {
		a.log.Error("drift could not be compared; it is tried again", "stage", StageApply, "bundle", one.name, "error", err)
		one.attempts++
		a.fail(one, err, now)
		one.todo, one.deployed, one.healthy = true, false, false
		return
	}
	if whole {
		a.tell(Event{Bundle: one.name, Reason: ReasonDriftCorrected, Message: "much of it drifted: the bundle is applied again"})
		a.log.Info("drift: the bundle is applied again", "stage", StageApply, "bundle", one.name)
		one.todo, one.deployed, one.healthy = true, false, false
		return
	}
	findings := a.drift.findings[one.name]
	if findings == nil {
		findings = map[apply.ID]finding{}
		a.drift.findings[one.name] = findings
	}
	for _, result := range results {
		a.repairedOne(one, result, findings, started, now)
	}
	a.drift.touched.Insert(one.name)
	a.lookAt = now
}

func (a *Agent) repairedOne(one *unit, result repairResult, findings map[apply.ID]finding, started, now time.Time) {
	id, text := result.ref.ID(), result.ref.String()+" "+result.verdict.String()
	a.noteDrift(one.name, result, now)
	attrs := []any{"stage", StageApply, "bundle", one.name, "object", result.ref.String()}
	if result.verdict.Drifted() {
		a.metrics.drift(one.name, result.ref)
	}
	switch {
	case result.err != nil:
		a.metrics.repaired(one.name, "failed")
		a.log.Error("drift was not corrected; it is tried again", append(attrs, "error", result.err)...)
		findings[id] = finding{ref: result.ref, text: result.ref.String() + ": " + result.err.Error()}
		a.suspect(one.name, result.ref, now.Add(jitter(firstPause)))
	case result.act == drift.Repair:
		delete(findings, id)
		if a.drift.contests[id] == nil {
			a.drift.contests[id] = &drift.Contest{}
		}
		a.drift.contests[id].Repaired(now)
		a.metrics.repaired(one.name, "repaired")
		a.tell(Event{Bundle: one.name, Reason: ReasonDriftCorrected, Message: text})
		a.log.Info("drift corrected", append(attrs, "drift", result.verdict.String(), "duration", now.Sub(started))...)
	case result.act == drift.Concede:
		if !findings[id].contested {
			a.log.Warn("drift is contested: somebody undoes each repair", append(attrs, "by", result.verdict.Manager, "until", stamp(result.until))...)
			a.metrics.repaired(one.name, "contested")
		}
		findings[id] = finding{ref: result.ref, contested: true, text: text + "; tried again at " + stamp(result.until)}
		a.suspect(one.name, result.ref, result.until)
	case result.act == drift.Report:
		if findings[id].text != text {
			a.log.Warn("drift found", append(attrs, "drift", result.verdict.String())...)
		}
		findings[id] = finding{ref: result.ref, text: text}
	default:
		delete(findings, id)
	}
}

// withDrift lets drift that is not repaired show in how a bundle stands: worse than being updated, not as bad as failed.
func withDrift(s standing, findings map[apply.ID]finding) standing {
	if len(findings) == 0 || s.state == v1alpha1.StateFailed || s.state == v1alpha1.StateRefused {
		return s
	}
	list := make([]finding, 0, len(findings))
	for _, one := range findings {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b finding) int {
		if a.contested != b.contested {
			if a.contested {
				return -1
			}
			return 1
		}
		return strings.Compare(a.text, b.text)
	})
	s.state, s.reason = v1alpha1.StateDrifted, ReasonDrifted
	if list[0].contested {
		s.state, s.reason = v1alpha1.StateContested, ReasonContested
	}
	s.message = list[0].text
	if len(list) > 1 {
		s.message += fmt.Sprintf(" (and %d more)", len(list)-1)
	}
	s.problems = nil
	for _, one := range list[:min(len(list), v1alpha1.MaxProblems)] {
		reason := ReasonDrifted
		if one.contested {
			reason = ReasonContested
		}
		s.problems = append(s.problems, v1alpha1.Problem{Object: one.ref.String(), Reason: string(reason), Message: one.text})
	}
	return s
}

// settleDrift drops what was found about a bundle before it was applied anew. What was told since then is still compared:
// it may have happened to an object that was applied already. A release that didn't change was not applied at all.
func (a *Agent) settleDrift(one *unit, started time.Time) {
	delete(a.drift.findings, one.name)
	if one.want != nil && one.want.Method == v1alpha1.MethodRelease {
		return
	}
	for id, object := range a.drift.pending[one.name] {
		if object.at.Before(started) {
			delete(a.drift.pending[one.name], id)
		}
	}
}

// forgetDrift drops what was found about a bundle that is gone.
func (a *Agent) forgetDrift(bundle string) {
	delete(a.drift.findings, bundle)
	delete(a.drift.pending, bundle)
}
