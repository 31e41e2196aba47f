package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// RolloutResult is a plan that a publish made: nothing happens by it before its gate opens.
type RolloutResult struct {
	Name     string                 `json:"name"`
	Plan     int64                  `json:"plan"`
	Clusters int                    `json:"clusters"`
	Steps    []v1alpha1.RolloutStep `json:"steps"`
	Bundles  []string               `json:"bundles"`
}

// rollouts turn changes under a strategy into announcements.
type rollouts struct {
	p        *publisher
	fleet    *target.Fleet
	verifier *signing.Verifier
	parent   v1alpha1.FleetIndex
	previous map[string]v1alpha1.IndexCluster
	// strategies by the rollouts' names; states are how those stand that were ever announced.
	strategies map[string]v1alpha1.Rollout
	states     map[string]gates.State

	mu    sync.Mutex
	made  map[int]v1alpha1.Target // with announcements that have no place yet, of clusters that are issued
	fresh map[string]*v1alpha1.RolloutPlan
}

// announce holds back what changes under a strategy, and makes new plans where something new is announced. Targets that
// were decided about are changed accordingly.
func (p *publisher) announce(ctx context.Context, fleet *target.Fleet, parent v1alpha1.FleetIndex, issued []issuedTarget) ([]v1alpha1.RolloutPlan, error) {
	r := &rollouts{
		p: p, fleet: fleet, parent: parent, previous: map[string]v1alpha1.IndexCluster{}, strategies: map[string]v1alpha1.Rollout{}, states: map[string]gates.State{},
		made: map[int]v1alpha1.Target{}, fresh: map[string]*v1alpha1.RolloutPlan{},
	}
	for _, cluster := range parent.Clusters {
		r.previous[cluster.Name] = cluster
	}
	r.readStrategies()
	known := gates.Names(parent)
	if len(r.strategies) == 0 && len(known) == 0 {
		return nil, nil
	}
	var err error
	if r.verifier, err = p.ownVerifier(ctx); err != nil {
		return nil, err
	}
	for _, name := range append(slices.Collect(maps.Keys(r.strategies)), known...) {
		if _, read := r.states[name]; read {
			continue
		}
		if r.states[name], err = gates.Read(ctx, p.registry, r.verifier, name); err != nil {
			return nil, explainKey(err, p.registry)
		}
	}
	r.noteChangedStrategies()
	if err := r.look(ctx, issued, r.changes); err != nil {
		return nil, err
	}
	r.noteChanges(issued)
	if err := r.look(ctx, issued, r.concerned); err != nil {
		return nil, err
	}
	if err := r.join(ctx, issued); err != nil {
		return nil, err
	}
	return r.plan(issued)
}

// readStrategies names every strategy of the fleet.
func (r *rollouts) readStrategies() {
	if r.fleet.Spec.Rollout != nil {
		r.strategies[v1alpha1.RolloutFleet] = *r.fleet.Spec.Rollout
	}
	for i := range r.fleet.Spec.Sources {
		if source := &r.fleet.Spec.Sources[i]; source.Rollout != nil {
			r.strategies[v1alpha1.RolloutOfSource(source.Name)] = *source.Rollout
		}
	}
	for i := range r.fleet.Bundles {
		if bundle := &r.fleet.Bundles[i]; bundle.Spec.Rollout != nil {
			r.strategies[v1alpha1.RolloutOfBundle(bundle.Metadata.Name)] = *bundle.Spec.Rollout
		}
	}
}

// scope is the rollout that a bundle changes in: its own, its source's or the fleet's; empty for at once.
func (r *rollouts) scope(bundle *v1alpha1.TargetBundle) string {
	for _, name := range []string{
		v1alpha1.RolloutOfBundle(bundle.Name), v1alpha1.RolloutOfSource(bundle.Source.Name), v1alpha1.RolloutFleet,
	} {
		if _, found := r.strategies[name]; found {
			return name
		}
	}
	return ""
}

// noteChangedStrategies begins plans anew that are under way by another strategy.
func (r *rollouts) noteChangedStrategies() {
	for name, state := range r.states {
		strategy, found := r.strategies[name]
		if found && state.Active() && !sameStrategy(rollout.Complete(strategy), state.Plan.Strategy) {
			r.fresh[name] = nil
		}
	}
}

func sameStrategy(a, b v1alpha1.Rollout) bool {
	one, errOne := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return errOne == nil && errOther == nil && string(one) == string(other)
}

// changes reports whether a cluster's target is issued anew anyhow, and had one before.
func (r *rollouts) changes(issued *issuedTarget) bool {
	before := r.previous[issued.index.Name]
	switch issued.result.Action {
	case target.Changed:
		return before.Digest != ""
	case target.Renewed:
		return len(before.Rollouts) > 0
	case target.Unchanged:
		return slices.ContainsFunc(before.Rollouts, func(announced v1alpha1.IndexRollout) bool {
			_, found := r.strategies[announced.Name]
			return !found
		})
	}
	return false
}

// concerned reports whether a cluster was told of a rollout that begins anew.
func (r *rollouts) concerned(issued *issuedTarget) bool {
	return slices.ContainsFunc(r.previous[issued.index.Name].Rollouts, func(announced v1alpha1.IndexRollout) bool {
		_, fresh := r.fresh[announced.Name]
		return fresh
	})
}

// look makes the targets of clusters, with announcements.
func (r *rollouts) look(ctx context.Context, issued []issuedTarget, which func(*issuedTarget) bool) error {
	return r.p.each(ctx, len(issued), func(ctx context.Context, i int) error {
		r.mu.Lock()
		_, known := r.made[i]
		r.mu.Unlock()
		if known || !which(&issued[i]) || issued[i].result.Action == target.Refused {
			return nil
		}
		next, err := issued[i].make(ctx)
		if err != nil {
			return err
		}
		before := r.previous[issued[i].index.Name]
		last, err := r.p.fetchIssued(ctx, before.Name, before.Digest, r.verifier)
		if err != nil {
			return fmt.Errorf("cluster %s: generation %d: %w", before.Name, before.Generation, explainKey(err, r.p.registry))
		}
		r.hold(i, next, r.has(last), r.scope)
		return nil
	})
}

// has returns what a cluster has, or is about to have: its bundles, and announced ones that it was let in for.
func (r *rollouts) has(last v1alpha1.Target) []v1alpha1.TargetBundle {
	bundles := last.Bundles
	for i := range last.Rollouts {
		announced := &last.Rollouts[i]
		place := rollout.Place{Wave: announced.Wave, Bucket: announced.Bucket}
		if rollout.Taken(r.states[announced.Name].Gate, announced.Plan, place, announced.OnAbort) {
			bundles = rollout.Take(bundles, announced)
		}
	}
	return bundles
}

func (r *rollouts) hold(i int, next v1alpha1.Target, has []v1alpha1.TargetBundle, scope func(*v1alpha1.TargetBundle) string) {
	var announced map[string]v1alpha1.TargetRollout
	next.Bundles, announced = rollout.Announce(has, next.Bundles, scope)
	next.Rollouts = nil
	for _, name := range slices.Sorted(maps.Keys(announced)) {
		one := announced[name]
		one.AllowPrune = next.AllowPrune
		next.Rollouts = append(next.Rollouts, one)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[i] = next
}

// noteChanges begins a plan for everything that was not announced before.
func (r *rollouts) noteChanges(issued []issuedTarget) {
	for i, next := range r.made {
		before := r.previous[issued[i].index.Name].Rollouts
		for _, announced := range next.Rollouts {
			if hash := rollout.Hash(announced); !slices.ContainsFunc(before, func(b v1alpha1.IndexRollout) bool { return b.Name == announced.Name && b.Next == hash }) {
				r.fresh[announced.Name] = nil
			}
		}
	}
}

// join lets new clusters wait for what is under way; what isn't, they get at once.
func (r *rollouts) join(ctx context.Context, issued []issuedTarget) error {
	if r.parent.Publication == 0 {
		return nil
	}
	underWay := func(bundle *v1alpha1.TargetBundle) string {
		name := r.scope(bundle)
		state := r.states[name]
		_, fresh := r.fresh[name]
		aborted := state.Gate != nil && state.Plan != nil && state.Gate.Plan == state.Plan.Plan && state.Gate.Phase == v1alpha1.RolloutAborted
		if name != "" && (fresh || state.Active() || aborted) {
			return name
		}
		return ""
	}
	return r.p.each(ctx, len(issued), func(ctx context.Context, i int) error {
		if issued[i].result.Action == target.Refused || issued[i].result.Action == target.Unchanged || r.previous[issued[i].index.Name].Digest != "" {
			return nil
		}
		next, err := issued[i].make(ctx)
		if err != nil {
			return err
		}
		r.hold(i, next, nil, underWay)
		return nil
	})
}

// plan makes the new plans, gives everybody a place, and puts both into what is issued.
func (r *rollouts) plan(issued []issuedTarget) ([]v1alpha1.RolloutPlan, error) {
	places := map[string]map[string]rollout.Place{}
	var plans []v1alpha1.RolloutPlan
	for _, name := range slices.Sorted(maps.Keys(r.fresh)) {
		members, bundles := r.members(name, issued)
		if len(members) == 0 {
			delete(r.fresh, name)
			continue
		}
		plan := v1alpha1.RolloutPlan{
			Fleet: r.fleet.Name, Name: name, Plan: 1, IssuedAt: metav1.NewTime(r.p.Now().UTC().Truncate(time.Second)),
			Publication: r.parent.Publication + 1, Strategy: rollout.Complete(r.strategies[name]), Clusters: len(members), Bundles: bundles,
		}
		if before := r.states[name].Plan; before != nil {
			plan.Plan = before.Plan + 1
		}
		selects, err := r.selectors(name)
		if err != nil {
			return nil, err
		}
		plan.Steps, places[name] = rollout.Ladder(plan.Strategy, rollout.Seed(plan.Fleet, name, plan.Plan), members, selects)
		r.fresh[name] = &plan
		plans = append(plans, plan)
	}
	for i, next := range r.made {
		if err := r.settle(&issued[i], next, places); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// members are the clusters with a target before to which a rollout is announced, and the bundles that change.
func (r *rollouts) members(name string, issued []issuedTarget) (clusters, bundles []string) {
	changed := map[string]bool{}
	for i, next := range r.made {
		for _, announced := range next.Rollouts {
			if announced.Name != name {
				continue
			}
			for j := range announced.Bundles {
				changed[announced.Bundles[j].Name] = true
			}
			for _, bundle := range announced.Remove {
				changed[bundle] = true
			}
			if r.previous[issued[i].index.Name].Digest != "" {
				clusters = append(clusters, issued[i].index.Name)
			}
		}
	}
	slices.Sort(clusters)
	return clusters, slices.Sorted(maps.Keys(changed))
}

// settle completes a cluster's announcements and issues its target with them.
func (r *rollouts) settle(issued *issuedTarget, next v1alpha1.Target, places map[string]map[string]rollout.Place) error {
	before := r.previous[issued.index.Name]
	var index []v1alpha1.IndexRollout
	kept := next.Rollouts[:0:0]
	for _, announced := range next.Rollouts {
		plan := r.fresh[announced.Name]
		if plan == nil {
			plan = r.states[announced.Name].Plan
		}
		if plan == nil {
			return fmt.Errorf("rollout %s of cluster %s has no plan; publish again", announced.Name, issued.index.Name)
		}
		place, found := places[announced.Name][issued.index.Name]
		if at := slices.IndexFunc(before.Rollouts, func(b v1alpha1.IndexRollout) bool { return b.Name == announced.Name && b.Plan == plan.Plan }); at >= 0 {
			place, found = rollout.Place{Wave: before.Rollouts[at].Wave, Bucket: before.Rollouts[at].Bucket}, true
		}
		if !found {
			place = rollout.LatePlace(plan.Steps, rollout.Seed(plan.Fleet, plan.Name, plan.Plan), issued.index.Name)
		}
		hash := rollout.Hash(announced)
		announced.Plan, announced.Wave, announced.Bucket, announced.LateWave = plan.Plan, place.Wave, place.Bucket, rollout.LateWave(plan.Steps)
		announced.Deadline, announced.SeenWithin, announced.OnAbort = plan.Strategy.Deadline, plan.Strategy.SeenWithin, plan.Strategy.OnAbort
		kept = append(kept, announced)
		index = append(index, v1alpha1.IndexRollout{Name: announced.Name, Plan: plan.Plan, Wave: place.Wave, Bucket: place.Bucket, Next: hash})
	}
	next.Rollouts = kept
	if issued.result.Action == target.Unchanged {
		issued.result.Action, issued.result.Reason = target.Changed, "its rollouts changed"
		issued.index.Generation, issued.index.Digest = next.Generation, ""
		issued.result.Generation = next.Generation
	} else if len(kept) > 0 {
		names := make([]string, len(kept))
		for i := range kept {
			names[i] = kept[i].Name
		}
		issued.result.Reason = strings.TrimPrefix(issued.result.Reason+", announced by rollout "+strings.Join(names, ", "), ", ")
	}
	issued.index.Rollouts = index
	issued.make = func(context.Context) (v1alpha1.Target, error) { return next, nil }
	return nil
}

// selectors tell which clusters a strategy's waves take.
func (r *rollouts) selectors(name string) (func(wave int, cluster string) bool, error) {
	strategy := r.strategies[name]
	selectors := make([]labels.Selector, len(strategy.Waves))
	for i, wave := range strategy.Waves {
		selector := wave.ClusterSelector
		if wave.ClusterGroup != "" {
			at := slices.IndexFunc(r.fleet.Groups, func(g target.Group) bool { return g.Metadata.Name == wave.ClusterGroup })
			if at < 0 {
				return nil, fmt.Errorf("rollout %s: cluster group %q is not in the inventory", name, wave.ClusterGroup)
			}
			selector = &r.fleet.Groups[at].Spec.Selector
		}
		if selector == nil {
			continue
		}
		var err error
		if selectors[i], err = metav1.LabelSelectorAsSelector(selector); err != nil {
			return nil, fmt.Errorf("rollout %s: wave %d: %w", name, i+1, err)
		}
	}
	byName := make(map[string]labels.Set, len(r.fleet.Clusters))
	for i := range r.fleet.Clusters {
		byName[r.fleet.Clusters[i].Metadata.Name] = r.fleet.Clusters[i].Metadata.Labels
	}
	return func(wave int, cluster string) bool {
		return selectors[wave] != nil && selectors[wave].Matches(byName[cluster])
	}, nil
}

// pushPlans stores new plans before any target speaks of them.
func (p *publisher) pushPlans(ctx context.Context, plans []v1alpha1.RolloutPlan) error {
	for _, plan := range plans {
		if err := gates.PushPlan(ctx, p.registry, p.Signer, plan); err != nil {
			return err
		}
	}
	return nil
}

func rolloutResults(plans []v1alpha1.RolloutPlan) []RolloutResult {
	results := make([]RolloutResult, len(plans))
	for i, plan := range plans {
		results[i] = RolloutResult{Name: plan.Name, Plan: plan.Plan, Clusters: plan.Clusters, Steps: plan.Steps, Bundles: plan.Bundles}
	}
	return results
}
