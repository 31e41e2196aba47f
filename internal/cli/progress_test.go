package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target"
)

// steps is a publish of 1,000 targets at 50 a second.
func steps(p *progress) {
	for i := range 1000 {
		time.Sleep(20 * time.Millisecond)
		p.step(publish.Event{
			Stage: "target", Subject: fmt.Sprintf("c-%03d", i), Action: target.Created, Done: i + 1, All: 1000, Bytes: int64(i+1) << 10,
		})
	}
	p.end()
}

func TestProgress(t *testing.T) {
	for _, test := range []struct {
		name    string
		session session
		redraw  bool
		lines   int
		some    string
	}{
		{name: "elsewhere a line every ten seconds", lines: 2, some: "doing: target 500/1000 50% 500.0 KiB 50.1/s 10s left\n"},
		{name: "quiet nothing", session: session{quiet: true}},
		{name: "verbose every step", session: session{verbose: true}, lines: 1000, some: "target 501/1000 c-500 created\n"},
		{name: "drawn over on a terminal", redraw: true, some: "\r\x1b[K"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				s := test.session
				s.Err, s.logFormat = &out, "text"
				p := newProgress(&s)
				p.redraw = test.redraw
				steps(p)
				if lines := strings.Count(out.String(), "\n"); lines != test.lines {
					t.Errorf("%d lines, want %d:\n%s", lines, test.lines, out.String())
				}
				if !strings.Contains(out.String(), test.some) {
					t.Errorf("%q is not in:\n%s", test.some, out.String())
				}
				if test.redraw && !strings.HasSuffix(out.String(), "\r\x1b[K") {
					t.Errorf("the last drawing stays: %q", out.String()[out.Len()-40:])
				}
			})
		})
	}
}
