package cli

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"pinnace.dev/pinnace/pkg/publish"
)

const (
	redrawEvery = 100 * time.Millisecond // on a terminal
	reportEvery = 10 * time.Second       // elsewhere
	// guessAfter is how long a stage runs before its end is guessed: the first things say little about the rest.
	guessAfter = 2 * time.Second
)

// progress shows how far a long piece of work is: redrawn on a terminal, a line now and then elsewhere, each step with
// --verbose, nothing with --quiet. It must be used from one goroutine at a time.
type progress struct {
	session *session
	redraw  bool
	last    time.Time
	drawn   bool
	stage   pace
}

func newProgress(s *session) *progress {
	return &progress{session: s, redraw: isTerminal(s.Err) && s.logFormat == "text" && !s.verbose, last: time.Now()}
}

// step shows an event of a publish and of what works like one.
func (p *progress) step(event publish.Event) {
	s, now := p.session, time.Now()
	if s.quiet {
		return
	}
	if p.stage.name != event.Stage {
		p.stage = pace{name: event.Stage, started: now}
	}
	switch {
	case s.verbose:
		s.message(markDone, "%s %d/%d %s %s", event.Stage, event.Done, event.All, event.Subject, event.Action)
	case p.redraw && (event.Done == event.All || now.Sub(p.last) >= redrawEvery):
		s.say("\r\x1b[K%s %s", s.sign(markDoing), fitted(p.stage.line(event, now), s.width()-2))
		p.last, p.drawn = now, true
	case !p.redraw && now.Sub(p.last) >= reportEvery:
		s.message(markDoing, "%s", p.stage.line(event, now))
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

// width is the terminal's: a line that wraps cannot be drawn over.
func (s *session) width() int {
	const usual = 80
	if file, ok := s.Err.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return usual
}

func fitted(text string, width int) string {
	if runes := []rune(text); len(runes) >= width && width > 1 {
		return string(runes[:width-1])
	}
	return text
}

// pace is how fast a stage goes.
type pace struct {
	name    string
	started time.Time
}

// line says how far the stage is: target 1240/5000 24%  110.2 MiB  131/s  29s left.
func (p pace) line(event publish.Event, now time.Time) string {
	text := fmt.Sprintf("%s %d/%d", event.Stage, event.Done, event.All)
	if event.All > 0 {
		text += fmt.Sprintf(" %d%%", 100*event.Done/event.All)
	}
	if event.Bytes > 0 {
		text += "  " + showBytes(event.Bytes)
	}
	elapsed := now.Sub(p.started)
	if elapsed < guessAfter || event.Done == 0 {
		return text
	}
	rate := float64(event.Done) / elapsed.Seconds()
	text += fmt.Sprintf("  %.3g/s", rate)
	if left := event.All - event.Done; left > 0 {
		text += fmt.Sprintf("  %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return text
}
