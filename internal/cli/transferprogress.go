package cli

import (
	"fmt"
	"sync"
	"time"

	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// transferProgress shows how far a transfer is, in bytes: drawn again on a terminal, a line now and then elsewhere.
type transferProgress struct {
	session *session
	drawn   *progress

	mu       sync.Mutex
	arrived  int64
	now      mirror.Progress
	estimate estimate
	last     time.Time
	waiting  time.Time
}

func newTransferProgress(s *session) *transferProgress {
	return &transferProgress{session: s, drawn: newProgress(s), estimate: estimate{started: time.Now()}, last: time.Now()}
}

// bytes have arrived; it may be called from several goroutines.
func (p *transferProgress) bytes(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrived += n
	p.show(false)
}

// resumed bytes were there before this process began: they say nothing about the link.
func (p *transferProgress) resumed(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrived += n
	p.estimate.resumed += n
	p.show(false)
}

func (p *transferProgress) step(now mirror.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := now.Stage != p.now.Stage
	p.now = now
	p.show(changed)
}

// waits tells, once, that the window is closed.
func (p *transferProgress) waits(until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until.Sub(p.waiting).Abs() > time.Minute {
		p.waiting = until
		p.session.message(markWaiting, "outside of the window; transfers go on at %s", until.Format("15:04"))
	}
}

func (p *transferProgress) show(stage bool) {
	s, now := p.session, time.Now()
	pause := reportEvery
	if p.drawn.redraw {
		pause = redrawEvery
	}
	if s.quiet || now.Sub(p.last) < pause && (!stage || !p.drawn.redraw) {
		return
	}
	p.last = now
	text := p.estimate.line(p.now, p.arrived, now)
	if !p.drawn.redraw {
		s.message(markDoing, "%s", text)
		return
	}
	s.say("\r\x1b[K%s %s", s.sign(markDoing), fitted(text, s.width()-2))
	p.drawn.drawn = true
}

func (p *transferProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drawn.end()
}

// estimate says how long it will still take. What it once said never grows: a number that goes back and forth tells
// nobody when to come back.
type estimate struct {
	started   time.Time
	rate      float64 // bytes per second, smoothed
	bytes     int64   // that this process sent, at the last look
	resumed   int64   // that were there before
	at        time.Time
	remaining time.Duration
	known     bool
}

const (
	// smoothing is the weight of the newest second.
	smoothing = 0.3
	// settleAfter is how long the average counts instead: what a burst promises at the beginning is never taken back.
	settleAfter = 5 * time.Second
)

func (e *estimate) look(arrived, want int64, now time.Time) {
	if e.at.IsZero() {
		e.at, e.bytes = e.started, 0
	}
	elapsed := now.Sub(e.at).Seconds()
	if elapsed <= 0 {
		return
	}
	sent := arrived - e.resumed
	if running := now.Sub(e.started); running < settleAfter || e.rate == 0 {
		e.rate = float64(sent) / running.Seconds()
	} else {
		rate := float64(sent-e.bytes) / elapsed
		e.rate += (rate - e.rate) * min(smoothing*max(elapsed, 0.1), 1)
	}
	e.at, e.bytes = now, sent
	if e.rate <= 0 || want <= 0 || now.Sub(e.started) < guessAfter {
		return
	}
	remaining := time.Duration(float64(max(want-arrived, 0)) / e.rate * float64(time.Second))
	if !e.known || remaining < e.remaining {
		e.remaining, e.known = remaining, true
	}
}

func (e *estimate) line(now mirror.Progress, arrived int64, at time.Time) string {
	e.look(arrived, now.Want, at)
	text := fmt.Sprintf("%s %d/%d", now.Stage, now.Done, now.All)
	if now.Stage == "" {
		text = "transfer"
	}
	if now.Want > 0 {
		text += fmt.Sprintf("  %s of %s", showBytes(min(arrived, now.Want)), showBytes(now.Want))
	} else {
		text += "  " + showBytes(arrived)
	}
	text += fmt.Sprintf("  %s/s", showBytes(int64(e.rate)))
	if e.known {
		text += "  " + e.remaining.Round(time.Second).String() + " left"
	}
	return text
}
