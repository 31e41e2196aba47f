package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// The simulation: agents as pkg/agent's gate makes them, thousands of them, with failures, silence and latency.

const (
	simTick     = 10 * time.Minute // between two steppers' runs
	simClusters = 5000
	simDays     = 4
)

// simAgent is one cluster.
type simAgent struct {
	place    rollout.Place
	bad      bool          // the change fails here
	takes    time.Duration // from start to ready
	latency  time.Duration // of its reports
	silentOf time.Duration // of the day, from silentAt on
	silentAt time.Duration
	never    bool // never heard from
	contact  time.Time
	state    v1alpha1.RolloutState
	started  time.Time
	late     bool
	gate     int64
	beat     time.Time
	sent     rollout.Member // what is on its way
	sentAt   time.Time
	onTheWay bool
}

type world struct {
	t        *testing.T
	seed     uint64
	random   *rand.Rand
	plan     v1alpha1.RolloutPlan
	agents   []simAgent
	members  []rollout.Member
	gate     *v1alpha1.RolloutGate
	sequence int64
	start    time.Time
	troubled bool // some fail or fall silent
}

func newWorld(t *testing.T, seed uint64) *world {
	random := rand.New(rand.NewPCG(seed, 42))
	strategy := v1alpha1.Rollout{
		Bake: metav1.Duration{Duration: time.Duration(random.IntN(3)) * 20 * time.Minute}, Deadline: metav1.Duration{Duration: 40 * time.Minute},
		SeenWithin: metav1.Duration{Duration: time.Hour}, MaxUnavailable: amount(strconv.Itoa(8+random.IntN(20)) + "%"),
		MinSuccess: amount(strconv.Itoa(90+random.IntN(10)) + "%"),
		Waves:      []v1alpha1.RolloutWave{{ClusterGroup: "early"}, {Percent: 10}, {Percent: 50}},
	}
	if random.IntN(2) == 0 {
		strategy.MaxFailure = &v1alpha1.RolloutFailure{Limit: *amount("4%"), MinSample: 20}
	}
	names := make([]string, simClusters)
	for i := range names {
		names[i] = "c" + strconv.Itoa(i)
	}
	strategy.Canaries = names[:random.IntN(4)]
	steps, places := rollout.Ladder(strategy, rollout.Seed("sim", "fleet", int64(seed)), names, func(_ int, cluster string) bool { return len(cluster) == 3 })
	w := &world{t: t, seed: seed, random: random, start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.plan = v1alpha1.RolloutPlan{Name: "fleet", Plan: int64(seed) + 1, Strategy: strategy, Steps: steps, Clusters: len(names)}
	failures := []float64{0, 0, 0.002, 0.02, 0.2}[random.IntN(5)]
	silence := []float64{0, 0.05, 0.3}[random.IntN(3)]
	w.troubled = failures > 0 || silence > 0
	w.agents, w.members = make([]simAgent, len(names)), make([]rollout.Member, len(names))
	for i, name := range names {
		a := &w.agents[i]
		*a = simAgent{
			place: places[name], bad: random.Float64() < failures, latency: time.Duration(random.IntN(8)) * time.Minute,
			takes: time.Minute + time.Duration(random.IntN(15))*time.Minute, contact: w.start, beat: w.start,
		}
		if random.Float64() < silence {
			a.silentAt, a.silentOf = time.Duration(random.IntN(24*60))*time.Minute, time.Duration(random.IntN(20*60))*time.Minute
			a.never = random.IntN(5) == 0
		}
		w.members[i] = rollout.Member{Name: name, Place: a.place}
		if !a.never {
			w.members[i].Seen = w.start
		}
	}
	return w
}

func amount(text string) *intstr.IntOrString {
	value := intstr.FromString(text)
	return &value
}

// silent reports whether an agent reaches the registry at that time.
func (a *simAgent) silent(since time.Duration) bool {
	if a.never {
		return true
	}
	if a.silentOf == 0 {
		return false
	}
	day := (since - a.silentAt) % (24 * time.Hour)
	if day < 0 {
		day += 24 * time.Hour
	}
	return since >= a.silentAt && day < a.silentOf
}

// act is what an agent does at one poll.
func (w *world) act(i int, now time.Time) {
	a := &w.agents[i]
	if a.onTheWay && !now.Before(a.sentAt.Add(a.latency)) {
		w.members[i], a.onTheWay = a.sent, false
	}
	before := a.state
	if a.state == v1alpha1.RolloutRunning && now.Sub(a.started) >= a.takes {
		a.state = v1alpha1.RolloutDone
		if a.bad {
			a.state = v1alpha1.RolloutFailed
		}
	}
	if a.silent(now.Sub(w.start)) {
		return
	}
	away := now.Sub(a.contact) > w.plan.Strategy.SeenWithin.Duration
	a.contact = now
	if w.gate != nil && now.Before(w.gate.ExpiresAt.Time) || w.gate != nil && w.gate.Phase.Final() {
		a.gate = w.gate.Sequence
		place := a.place
		if a.late {
			place.Wave = rollout.LateWave(w.plan.Steps)
		}
		switch aborted := w.gate.Phase == v1alpha1.RolloutAborted; {
		case aborted && a.state != "" && a.state != v1alpha1.RolloutWaiting:
			a.state = v1alpha1.RolloutReverted
		case aborted || w.gate.Phase == v1alpha1.RolloutPaused || a.state != "" && a.state != v1alpha1.RolloutWaiting:
		case w.gate.Open(place.Wave, place.Bucket) && away && w.gate.Phase != v1alpha1.RolloutCompleted && !a.late:
			a.late, a.state = true, v1alpha1.RolloutWaiting
			before = ""
		case w.gate.Open(place.Wave, place.Bucket):
			a.state, a.started = v1alpha1.RolloutRunning, now
		default:
			a.state = v1alpha1.RolloutWaiting
		}
	}
	if a.state != before || now.Sub(a.beat) >= 15*time.Minute {
		a.beat = now
		a.sent = rollout.Member{
			Name: w.members[i].Name, Place: a.place, Seen: now, State: a.state, Late: a.late, StartedAt: a.started, Gate: a.gate,
		}
		a.sentAt, a.onTheWay = now, true
	}
}

// run goes on until the rollout ends, and checks what must never happen.
func (w *world) run() v1alpha1.RolloutGate {
	strategy := rollout.Complete(w.plan.Strategy)
	for now := w.start; now.Sub(w.start) < simDays*24*time.Hour; now = now.Add(simTick) {
		// A stepper that is killed now and then: nothing is lost.
		if w.random.IntN(10) > 0 {
			w.step(now, strategy)
		}
		if w.gate != nil && w.gate.Phase.Final() {
			return *w.gate
		}
		for i := range w.agents {
			w.act(i, now.Add(time.Duration(i%5)*time.Minute))
		}
	}
	w.t.Fatalf("seed %d: stuck: %s step %d (%s): %+v", w.seed, w.gate.Phase, w.gate.Step, w.gate.Message, rollout.Look(rollout.Input{
		Plan: w.plan, Gate: w.gate, Members: w.members, Now: w.start.Add(simDays * 24 * time.Hour),
	}).Steps)
	panic("unreachable")
}

func (w *world) step(now time.Time, strategy v1alpha1.Rollout) {
	in := rollout.Input{Plan: w.plan, Gate: w.gate, Members: w.members, Now: now}
	next, changed := rollout.Decide(in)
	renew := w.gate != nil && w.gate.ExpiresAt.Sub(now) < 30*time.Minute
	if !changed && !renew {
		return
	}
	w.check(in, next, strategy)
	w.sequence++
	next.Sequence, next.ExpiresAt = w.sequence, metav1.NewTime(now.Add(time.Hour))
	w.gate = &next
}

// check holds a decision against the invariants.
func (w *world) check(in rollout.Input, next v1alpha1.RolloutGate, strategy v1alpha1.Rollout) {
	opened := in.Gate == nil || next.OpenWave > in.Gate.OpenWave || next.OpenWave == in.Gate.OpenWave && next.OpenBucket > in.Gate.OpenBucket
	limit := max(1, simClusters*percent(strategy.MaxUnavailable)/100)
	atWork, truly := 0, 0
	for i := range w.members {
		if rollout.Stand(&w.members[i], &in.Plan, &strategy, &next, in.Now).AtWork() {
			atWork++
		}
		a := &w.agents[i]
		if a.state == v1alpha1.RolloutRunning || a.state == v1alpha1.RolloutFailed {
			truly++
		}
		canary := in.Plan.Steps[0].Canary && a.place.Wave == 0
		if canary && next.OpenWave > 0 && w.members[i].State == v1alpha1.RolloutFailed && next.Phase != v1alpha1.RolloutAborted {
			w.t.Fatalf("seed %d: went past canary %s, which failed", w.seed, w.members[i].Name)
		}
	}
	if next.Phase == v1alpha1.RolloutCompleted {
		return // everybody may come
	}
	if opened && atWork > limit {
		w.t.Fatalf("seed %d: %d clusters may be at work, at most %d are allowed", w.seed, atWork, limit)
	}
	if truly > limit {
		w.t.Fatalf("seed %d: %d clusters are at work, at most %d are allowed", w.seed, truly, limit)
	}
	w.checkForward(in, next, strategy)
}

// checkForward: a step is left only on fresh reports of this plan.
func (w *world) checkForward(in rollout.Input, next v1alpha1.RolloutGate, strategy v1alpha1.Rollout) {
	if in.Gate == nil || next.Step == in.Gate.Step {
		return
	}
	seen, done := 0, 0
	for i := range w.members {
		m := &w.members[i]
		if rollout.StepOf(&in.Plan, rollout.PlaceOf(m, &in.Plan)) != in.Gate.Step {
			continue
		}
		if in.Now.Sub(m.Seen) <= strategy.SeenWithin.Duration*3/2 && !m.Seen.IsZero() {
			seen++
			if m.State == v1alpha1.RolloutDone {
				done++
			}
		}
	}
	if need := (seen*percent(strategy.MinSuccess) + 99) / 100; done < need {
		w.t.Fatalf("seed %d: left step %d with %d of %d done, %d are needed", w.seed, in.Gate.Step, done, seen, need)
	}
}

func percent(amount *intstr.IntOrString) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(amount, 100, false)
	if err != nil {
		panic(err)
	}
	return n
}

func TestSimulation(t *testing.T) {
	const shards = 8
	var mu sync.Mutex
	ends := map[v1alpha1.RolloutPhase]int{}
	t.Run("shards", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := uint64(shard); seed < simSeeds; seed += shards {
					w := newWorld(t, seed)
					end := w.run()
					mu.Lock()
					ends[end.Phase]++
					mu.Unlock()
					if end.Phase == v1alpha1.RolloutAborted && !w.troubled {
						t.Fatalf("seed %d: aborted although nothing is wrong: %s", seed, end.Message)
					}
				}
			})
		}
	})
	if ends[v1alpha1.RolloutCompleted] == 0 || ends[v1alpha1.RolloutAborted] == 0 {
		t.Errorf("the seeds are one-sided: %v", ends)
	}
}
