package demo

import (
	"time"

	"pinnace.dev/pinnace/pkg/publish"
)

// Work is something that takes a while on a large fleet, and how far it is. The zero value is nothing.
type Work struct {
	// Event says which and how far: a stage of a publish, or StageAgents.
	publish.Event
	Started time.Time
}

// StageAgents is the time in which agents take their first target.
const StageAgents = "agents with their first target"

// progress keeps how far a publish is.
func (d *Demo) progress(event publish.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.work.Stage != event.Stage {
		d.work.Started = time.Now()
	}
	d.work.Event = event
}

// published notes the end of a publish.
func (d *Demo) published(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.work = Work{}
	if err == nil {
		d.publishedAt = time.Now()
	}
}

// starts notes that agents are being started.
func (d *Demo) starts() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startedAt = time.Now()
}

// working says what is under way. Agents that all took their first target once have started.
func (d *Demo) working() Work {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.work.Stage != "" || d.startedAt.IsZero() || d.allUp {
		return d.work
	}
	work := Work{Event: publish.Event{Stage: StageAgents, All: len(d.Agents)}, Started: d.startedAt}
	for _, one := range d.Agents {
		if one.Ready() {
			work.Done++
		}
	}
	if d.allUp = work.Done == work.All; d.allUp {
		return Work{}
	}
	return work
}

// publishing reports whether a publish is under way, and when the last one ended.
func (d *Demo) publishing() (is bool, last time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.work.Stage != "", d.publishedAt
}
