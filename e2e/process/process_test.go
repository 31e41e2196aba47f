package process

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func shell(t *testing.T, g *Group, script string) *Process {
	t.Helper()
	p, err := g.Start(Command{Program: "sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExitIsReported(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	p := shell(t, g, "echo the reason; exit 3")
	err := p.Await(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("got %v, want the status and the end of the log", err)
	}
	if code, err := p.ExitCode(t.Context()); code != 3 || err != nil {
		t.Errorf("exit code: got %d (%v), want 3", code, err)
	}
}

func TestStop(t *testing.T) {
	g := NewGroup()
	defer g.Close()
	for _, tt := range []struct {
		name, script string
		fails        bool
	}{
		{"by the signal", "exec cat /dev/zero > /dev/null", false},
		{"as our programs do", "trap 'exit 130' TERM; echo up; while :; do :; done", false},
		{"failing", "trap 'exit 9' TERM; echo up; while :; do :; done", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := shell(t, g, tt.script)
			if strings.HasPrefix(tt.script, "trap") {
				err := p.Await(t.Context(), func(context.Context) error {
					if strings.HasSuffix(p.ending(), "up") {
						return nil
					}
					return errors.New("not up")
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Stop(); (err != nil) != tt.fails {
				t.Errorf("got %v, want an error: %v", err, tt.fails)
			}
		})
	}
}

// Closing ends the children of children too: a pipe ends when nobody holds it any more.
func TestClose(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	g := NewGroup()
	shell(t, g, "cat /dev/zero > '"+fifo+"' & wait")
	pipe, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pipe.Close() }()
	g.Close()
	if _, err := io.Copy(io.Discard, pipe); err != nil {
		t.Error(err)
	}
	g.Close()
	if _, err := g.Start(Command{Program: "true", Log: filepath.Join(t.TempDir(), "log")}); err == nil {
		t.Error("a closed group started a program")
	}
}
