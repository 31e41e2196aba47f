package cli

import "time"

const (
	redrawEvery = 100 * time.Millisecond // on a terminal
	reportEvery = 10 * time.Second       // elsewhere
)

// progress shows how far a long piece of work is: redrawn on a terminal, a line now and then elsewhere, each step with
// --verbose, nothing with --quiet. It must be used from one goroutine at a time.
type progress struct {
	session *session
	redraw  bool
	last    time.Time
	drawn   bool
}

func newProgress(s *session) *progress {
	return &progress{session: s, redraw: isTerminal(s.Err) && s.logFormat == "text" && !s.verbose, last: time.Now()}
}

func (p *progress) step(stage, subject string, done, all int) {
	s := p.session
	switch now := time.Now(); {
	case s.quiet:
	case s.verbose:
		s.message(markDone, "%s %d/%d %s", stage, done, all, subject)
	case p.redraw && (done == all || now.Sub(p.last) >= redrawEvery):
		s.say("\r\x1b[K%s %s %d/%d %s", s.sign(markDoing), stage, done, all, subject)
		p.last, p.drawn = now, true
	case !p.redraw && now.Sub(p.last) >= reportEvery:
		s.message(markDoing, "%s %d/%d", stage, done, all)
		p.last = now
	}
}

// end clears the line that was drawn.
func (p *progress) end() {
	if p.drawn {
		p.session.say("\r\x1b[K")
		p.drawn = false
	}
}
