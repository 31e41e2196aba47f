package transfer

import (
	"context"
	"sync"
	"time"
)

// gate lets a number of transfers run at the same time. The number follows what the link and the registry bear: it
// grows while more at once bring more, and halves when they push back.
type gate struct {
	mu      sync.Mutex
	limit   int
	running int
	waiting []chan struct{}

	tuner tuner
	since time.Time
	work  float64
	hard  bool
}

func newGate(jobs int) *gate {
	t := newTuner(jobs)
	return &gate{limit: t.limit, tuner: t}
}

func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.since.IsZero() {
		g.since = time.Now()
	}
	if g.running < g.limit {
		g.running++
		g.mu.Unlock()
		return ctx.Err()
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		for i, other := range g.waiting {
			if other == turn {
				g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
				return ctx.Err()
			}
		}
		g.running-- // its turn came in the same moment
		g.admit()
		return ctx.Err()
	}
}

// leave ends a transfer and tells what it did.
func (g *gate) leave(bytes int64, pushedBack bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	// A transfer counts for itself too: over a link with latency small ones are slow however few bytes they have.
	g.work += float64(bytes) + requestWorth
	g.hard = g.hard || pushedBack
	if elapsed := time.Since(g.since); elapsed >= tuneEvery {
		g.limit = g.tuner.next(g.work/elapsed.Seconds(), g.hard)
		g.since, g.work, g.hard = time.Now(), 0, false
	}
	g.admit()
}

// admit lets those in who wait; the caller holds the lock.
func (g *gate) admit() {
	for g.running < g.limit && len(g.waiting) > 0 {
		close(g.waiting[0])
		g.waiting = g.waiting[1:]
		g.running++
	}
}

const (
	requestWorth = 64 << 10
	tuneEvery    = 500 * time.Millisecond
	firstLimit   = 6
)

// tuner decides how many transfers run at once. It is pure.
type tuner struct {
	limit, most int
	last        float64
}

func newTuner(most int) tuner { return tuner{limit: min(firstLimit, most), most: most} }

// next takes the throughput since the last decision, and whether a transfer was pushed back: throttled, refused, cut.
func (t *tuner) next(throughput float64, pushedBack bool) int {
	switch {
	case pushedBack:
		t.limit = max(t.limit/2, 1)
		t.last = 0
		return t.limit
	case throughput >= t.last*0.95:
		t.limit = min(t.limit+2, t.most)
	case throughput < t.last*0.6:
		t.limit = max(t.limit-1, min(2, t.most))
	}
	t.last = max(throughput, t.last*0.9)
	return t.limit
}
