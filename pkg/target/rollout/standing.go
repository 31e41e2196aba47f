package rollout

import (
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Standing is how a cluster stands in a rollout: a closed set.
type Standing int

const (
	Absent   Standing = iota // not heard from lately
	Waiting                  // its place is not open
	Admitted                 // its place is open, and it did not start yet
	Running
	Done
	Failed
)

var standings = [...]string{"absent", "waiting", "admitted", "running", "done", "failed"}

func (s Standing) String() string { return standings[s] }

// AtWork reports whether the cluster counts against maxUnavailable.
func (s Standing) AtWork() bool { return s == Admitted || s == Running || s == Failed }

// Stand says how a member stands. A report that doesn't speak of this plan says only that its cluster is there.
func Stand(m *Member, plan *v1alpha1.RolloutPlan, strategy *v1alpha1.Rollout, gate *v1alpha1.RolloutGate, now time.Time) Standing {
	place := PlaceOf(m, plan)
	open := gate.Open(place.Wave, place.Bucket)
	// Half as long again as the agent's own limit: who is not counted any more knows itself that it is late.
	seen := !m.Seen.IsZero() && now.Sub(m.Seen) <= strategy.SeenWithin.Duration*3/2
	switch m.State {
	case v1alpha1.RolloutFailed, v1alpha1.RolloutReverted:
		if m.Gate >= gate.Attempt {
			return Failed
		}
	case v1alpha1.RolloutRunning:
		// The agent keeps the deadline. Silence after the start may be what the change did: it ends as a failure too.
		if deadline := m.StartedAt.Add(strategy.Deadline.Duration); m.Seen.After(deadline) || now.After(deadline.Add(strategy.SeenWithin.Duration)) {
			return Failed
		}
		return Running
	}
	switch {
	case !seen:
		return Absent
	case m.State == v1alpha1.RolloutDone:
		return Done
	case !open:
		return Waiting
	case !m.Held && now.Sub(gate.OpenedAt.Time) > strategy.Deadline.Duration+strategy.SeenWithin.Duration:
		return Failed // it reports, and does not start
	}
	return Admitted
}

// PlaceOf a member: the last wave for one that is late.
func PlaceOf(m *Member, plan *v1alpha1.RolloutPlan) Place {
	if m.Late {
		return Place{Wave: LateWave(plan.Steps), Bucket: m.Place.Bucket}
	}
	return m.Place
}

// StepOf returns the step that a place belongs to, or -1.
func StepOf(plan *v1alpha1.RolloutPlan, place Place) int {
	for i := range plan.Steps {
		if plan.Steps[i].Wave == place.Wave && place.Bucket < plan.Steps[i].Bucket {
			return i
		}
	}
	return -1
}

// Count is how the clusters of a step stand.
type Count struct {
	Clusters int `json:"clusters"`
	Absent   int `json:"absent,omitempty"`
	Waiting  int `json:"waiting,omitempty"`
	Admitted int `json:"admitted,omitempty"`
	Running  int `json:"running,omitempty"`
	Done     int `json:"done,omitempty"`
	Failed   int `json:"failed,omitempty"`
}

// Seen are those that were heard from.
func (c Count) Seen() int { return c.Clusters - c.Absent }

func (c *Count) add(s Standing) {
	c.Clusters++
	switch s {
	case Absent:
		c.Absent++
	case Waiting:
		c.Waiting++
	case Admitted:
		c.Admitted++
	case Running:
		c.Running++
	case Done:
		c.Done++
	case Failed:
		c.Failed++
	}
}

func (d *decision) count(step int) Count {
	var count Count
	for i, s := range d.standing {
		if d.steps[i] == step {
			count.add(s)
		}
	}
	return count
}

func (d *decision) all() Count {
	var count Count
	for _, s := range d.standing {
		count.add(s)
	}
	return count
}

// View is how a rollout stands, for people.
type View struct {
	Plan v1alpha1.RolloutPlan `json:"plan"`
	Gate v1alpha1.RolloutGate `json:"gate"`
	// Steps are the counts of each of the plan's steps; All sums them up.
	Steps []Count `json:"steps"`
	All   Count   `json:"all"`
	// Unavailable of MaxUnavailable clusters are at work or failed.
	Unavailable    int `json:"unavailable"`
	MaxUnavailable int `json:"maxUnavailable"`
	// BakeLeft is how long the step still bakes.
	BakeLeft time.Duration `json:"bakeLeft,omitempty"`
	// Stragglers are members that hold the step up, by name.
	Stragglers []Straggler `json:"stragglers,omitempty"`
}

// Straggler is a cluster that a step waits for, or that failed.
type Straggler struct {
	Cluster  string `json:"cluster"`
	Step     string `json:"step"`
	Standing string `json:"standing"`
	Message  string `json:"message,omitempty"`
}

// Look describes a rollout without changing anything.
func Look(in Input) View {
	d := &decision{Input: in, strategy: Complete(in.Plan.Strategy)}
	d.begin()
	if d.started {
		d.gate.Phase, d.gate.Events = v1alpha1.RolloutPending, nil
	}
	d.look()
	view := View{Plan: in.Plan, Gate: d.gate, Steps: make([]Count, len(in.Plan.Steps)), MaxUnavailable: d.allowed()}
	for i, s := range d.standing {
		step := d.steps[i]
		view.All.add(s)
		if step < 0 {
			continue
		}
		view.Steps[step].add(s)
		if s.AtWork() {
			view.Unavailable++
		}
		if s == Failed || s.AtWork() && !d.gate.Phase.Final() {
			m := &d.Members[i]
			view.Stragglers = append(view.Stragglers, Straggler{
				Cluster: m.Name, Step: in.Plan.Steps[step].Name, Standing: s.String(), Message: m.Message,
			})
		}
	}
	if d.gate.Phase == v1alpha1.RolloutBaking {
		bake := in.Plan.Steps[d.gate.Step].Bake.Duration
		view.BakeLeft = max(0, bake-in.Now.Sub(d.gate.BakingSince.Time)).Round(time.Second)
	}
	return view
}
