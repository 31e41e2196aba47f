package rollout

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Member is a cluster that takes part, with what it reported. The zero report is that of a cluster that was never heard
// from, or whose report isn't trusted.
type Member struct {
	Name  string
	Place Place
	// Seen is when the newest trusted report was made; zero for never.
	Seen time.Time
	// State is what that report says of this plan; empty when it speaks of another one, or of none.
	State     v1alpha1.RolloutState
	Late      bool
	StartedAt time.Time
	// Held says that the cluster waits for its maintenance window: it is let in and will start by itself.
	Held bool
	// Gate is the sequence that the agent had accepted.
	Gate    int64
	Message string
}

// Reasons of a gate, beside those of people.
const (
	ReasonCanaryFailed = "CanaryFailed"
	ReasonNoCanary     = "NoCanarySeen"
	ReasonMaxFailure   = "MaxFailure"
	ReasonMinSuccess   = "MinSuccess"
	ReasonUnavailable  = "MaxUnavailable"
)

// Input of [Decide].
type Input struct {
	Plan    v1alpha1.RolloutPlan
	Gate    *v1alpha1.RolloutGate // nil before the first
	Members []Member
	// Approved tells which steps enough people approved.
	Approved map[string]bool
	Now      time.Time
}

// Decide returns the next gate, without its sequence, parent and times of issue, and whether it says something new.
// A gate that says nothing new is renewed before it expires, and otherwise left alone.
func Decide(in Input) (next v1alpha1.RolloutGate, changed bool) {
	d := &decision{Input: in, strategy: Complete(in.Plan.Strategy)}
	d.begin()
	before := markOf(&d.gate)
	if d.gate.Phase.Final() || d.gate.Phase == v1alpha1.RolloutPaused {
		return d.gate, d.started
	}
	d.look()
	if !d.failed() {
		d.climb()
	}
	return d.gate, d.started || markOf(&d.gate) != before
}

// decision is one call's state.
type decision struct {
	Input
	strategy v1alpha1.Rollout
	gate     v1alpha1.RolloutGate
	started  bool
	standing []Standing
	steps    []int // of each member; -1 for none
}

// mark is what a gate says, without what only people read.
type mark struct {
	phase                  v1alpha1.RolloutPhase
	wave, bucket, step     int
	attempt, since, baking int64
	reason                 string
}

func markOf(gate *v1alpha1.RolloutGate) mark {
	return mark{
		phase: gate.Phase, wave: gate.OpenWave, bucket: gate.OpenBucket, step: gate.Step, attempt: gate.Attempt,
		since: gate.StepSince.Unix(), baking: gate.BakingSince.Unix(), reason: gate.Reason,
	}
}

// begin takes up the gate, or a new one for a plan that has none.
func (d *decision) begin() {
	if d.Gate != nil && d.Gate.Plan == d.Plan.Plan {
		d.gate = *d.Gate
		d.gate.Events = slices.Clone(d.Gate.Events)
		return
	}
	d.started = true
	d.gate = v1alpha1.RolloutGate{
		Fleet: d.Plan.Fleet, Name: d.Plan.Name, Plan: d.Plan.Plan, Phase: v1alpha1.RolloutProgressing,
		StepSince: stamp(d.Now), OpenedAt: stamp(d.Now),
	}
	if d.Gate != nil {
		d.gate.Events = slices.Clone(d.Gate.Events)
	}
	d.tell("plan %d: %d clusters in %d steps", d.Plan.Plan, d.Plan.Clusters, Peopled(d.Plan.Steps))
}

// look says how every member stands.
func (d *decision) look() {
	d.standing, d.steps = make([]Standing, len(d.Members)), make([]int, len(d.Members))
	for i := range d.Members {
		d.steps[i] = StepOf(&d.Plan, PlaceOf(&d.Members[i], &d.Plan))
		d.standing[i] = Stand(&d.Members[i], &d.Plan, &d.strategy, &d.gate, d.Now)
	}
}

// failed ends or pauses the rollout when too much went wrong.
func (d *decision) failed() bool {
	finished, failed := 0, 0
	for i, s := range d.standing {
		switch s {
		case Failed:
			finished++
			failed++
			if step := d.steps[i]; step >= 0 && d.Plan.Steps[step].Canary {
				d.fail(ReasonCanaryFailed, "canary %s failed%s", d.Members[i].Name, because(d.Members[i].Message))
				return true
			}
		case Done:
			finished++
		}
	}
	if limit := d.strategy.MaxFailure; limit != nil && failed > 0 && finished >= limit.MinSample {
		if allowed := amountOf(limit.Limit, finished, false); failed > allowed {
			d.fail(ReasonMaxFailure, "%d of the %d clusters that finished failed; at most %s may", failed, finished, limit.Limit.String())
			return true
		}
	}
	return false
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func (d *decision) fail(reason, format string, args ...any) {
	d.gate.Phase = v1alpha1.RolloutAborted
	if d.strategy.OnFailure == v1alpha1.RolloutPause {
		d.gate.Phase = v1alpha1.RolloutPaused
	}
	d.gate.Reason, d.gate.Message = reason, fmt.Sprintf(format, args...)
	d.tell("%s", d.gate.Message)
}

// climb opens the gate wider, lets a step bake, or goes on to the next.
func (d *decision) climb() {
	for {
		step := d.Plan.Steps[d.gate.Step]
		count := d.count(d.gate.Step)
		if d.gate.Step == len(d.Plan.Steps)-1 {
			count = d.all() // a few latecomers say little: the last step is judged with everybody
		}
		need := amountOf(*d.strategy.MinSuccess, count.Seen(), true)
		d.widen(step)
		opened := d.opened(step)
		if step.Canary {
			need = max(need, 1)
			if opened && count.Seen() == 0 && d.Now.Sub(d.gate.StepSince.Time) > d.strategy.Deadline.Duration {
				d.fail(ReasonNoCanary, "none of the canaries is heard from")
				return
			}
		}
		switch {
		case count.Failed > max(0, count.Seen()-need):
			d.fail(ReasonMinSuccess, "step %s: %d of %d clusters failed; %s must succeed",
				step.Name, count.Failed, count.Seen(), d.strategy.MinSuccess.String())
			return
		case !opened && d.exhausted():
			d.fail(ReasonUnavailable, "%d clusters failed, and no more than %d may be unavailable", d.allowed()-d.budget(), d.allowed())
			return
		case !opened || count.Done < need:
			d.gate.BakingSince = metav1.Time{}
			d.stand(v1alpha1.RolloutProgressing, "")
			return
		}
		if !d.baked(step, count) || !d.next() {
			return
		}
	}
}

// exhausted reports whether nothing more can be let in, and nothing is at work that could change that.
func (d *decision) exhausted() bool {
	for _, s := range d.standing {
		if s == Running || s == Admitted {
			return false
		}
	}
	return d.budget() <= 0
}

func (d *decision) stand(phase v1alpha1.RolloutPhase, message string) {
	d.gate.Phase, d.gate.Reason, d.gate.Message = phase, "", message
}

// baked lets a step that succeeded stay as it is for a while. Where nobody was heard from, nothing bakes.
func (d *decision) baked(step v1alpha1.RolloutStep, count Count) bool {
	if count.Seen() == 0 || step.Bake.Duration <= 0 {
		return true
	}
	if d.gate.BakingSince.IsZero() {
		d.gate.BakingSince = stamp(d.Now)
		d.stand(v1alpha1.RolloutBaking, "")
		d.tell("step %s succeeded on %d of %d clusters; it bakes for %s", step.Name, count.Done, count.Seen(), step.Bake.Duration)
	}
	return d.Now.Sub(d.gate.BakingSince.Time) >= step.Bake.Duration
}

// next begins the next step, unless people have to agree first, or there is none.
func (d *decision) next() bool {
	if d.gate.Step+1 == len(d.Plan.Steps) {
		d.stand(v1alpha1.RolloutCompleted, "")
		d.gate.BakingSince = metav1.Time{}
		d.tell("completed")
		return false
	}
	if step := d.Plan.Steps[d.gate.Step+1]; step.Approval && !d.Approved[step.Name] {
		if d.gate.Phase != v1alpha1.RolloutApproving {
			d.stand(v1alpha1.RolloutApproving, "step "+step.Name+" waits for approval")
			d.tell("%s", d.gate.Message)
		}
		return false
	}
	d.gate.Step++
	d.gate.StepSince, d.gate.BakingSince = stamp(d.Now), metav1.Time{}
	d.stand(v1alpha1.RolloutProgressing, "")
	if step := d.Plan.Steps[d.gate.Step]; step.Clusters > 0 {
		d.tell("step %s begins", step.Name)
	}
	return true
}

// widen lets in as many of the step's clusters as may be at work.
func (d *decision) widen(step v1alpha1.RolloutStep) {
	if d.opened(step) {
		return
	}
	left := d.budget()
	waiting := d.buckets(step)
	bucket := 0
	if d.gate.OpenWave == step.Wave {
		bucket = d.gate.OpenBucket
	}
	upTo := step.Bucket
	for _, one := range waiting {
		// More clusters in one bucket than may be at work come together, and alone.
		alone := one.clusters > 1 && left > 0 && left == d.allowed()
		if one.clusters > left && !alone {
			upTo = one.bucket // it stays outside
			break
		}
		left -= one.clusters
	}
	if upTo <= bucket && d.gate.OpenWave == step.Wave || upTo == 0 {
		return
	}
	d.gate.OpenWave, d.gate.OpenBucket, d.gate.OpenedAt = step.Wave, upTo, stamp(d.Now)
}

// opened reports whether all of a step is let in.
func (d *decision) opened(step v1alpha1.RolloutStep) bool { return d.open(step.Wave, step.Bucket) }

func (d *decision) open(wave, bucket int) bool { return d.gate.Open(wave, bucket-1) }

// allowed is how many clusters may be at work.
func (d *decision) allowed() int {
	return max(1, amountOf(*d.strategy.MaxUnavailable, len(d.Members), false))
}

// budget is how many more clusters may be let in.
func (d *decision) budget() int {
	left := d.allowed()
	for _, s := range d.standing {
		if s.AtWork() {
			left--
		}
	}
	return left
}

// group is how many seen clusters wait in a bucket.
type group struct{ bucket, clusters int }

// buckets are those of the step in which seen clusters wait, ascending.
func (d *decision) buckets(step v1alpha1.RolloutStep) []group {
	counts := map[int]int{}
	for i := range d.Members {
		if d.standing[i] != Waiting {
			continue
		}
		if place := PlaceOf(&d.Members[i], &d.Plan); place.Wave == step.Wave && place.Bucket < step.Bucket {
			counts[place.Bucket]++
		}
	}
	groups := make([]group, 0, len(counts))
	for bucket, n := range counts {
		groups = append(groups, group{bucket, n})
	}
	slices.SortFunc(groups, func(a, b group) int { return a.bucket - b.bucket })
	return groups
}

func (d *decision) tell(format string, args ...any) {
	d.gate.Events = append(d.gate.Events, v1alpha1.RolloutEvent{
		At: stamp(d.Now), Plan: d.gate.Plan, Phase: d.gate.Phase, Message: fmt.Sprintf(format, args...),
	})
	if extra := len(d.gate.Events) - v1alpha1.MaxGateEvents; extra > 0 {
		d.gate.Events = d.gate.Events[extra:]
	}
}

// stamp cuts a time to what JSON keeps of it.
func stamp(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }
