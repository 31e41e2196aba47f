package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// spawner starts processes, all from one operating system thread: Linux sends the parent-death signal when the thread
// that forked ends, not when the process does, so that thread must live as long as its children may.
type spawner struct {
	jobs chan func()
	done chan struct{}

	mu     sync.Mutex
	procs  []*process
	closed bool
}

type process struct {
	name   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process was waited for
	err    error         // why it exited; read after exited
}

func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// start starts a program whose output goes to a file, in a process group of its own.
func (s *spawner) start(name, log, program string, args ...string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("start %s: the plane is closed", name)
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = processAttributes()
	started := make(chan error)
	s.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w; remove the control plane's cache folder to build it again", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		p.err = cmd.Wait()
	}()
	s.procs = append(s.procs, p)
	return p, nil
}

// close kills everything and waits. The state of a plane is worth nothing afterwards, so nobody is asked politely.
func (s *spawner) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, p := range slices.Backward(s.procs) {
		p.kill()
	}
	for _, p := range s.procs {
		<-p.exited
	}
	close(s.jobs)
	<-s.done
}

func (p *process) kill() {
	select {
	case <-p.exited: // its id may be somebody else's by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may just have exited
	}
}

// stop kills the process and waits for it.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.kill()
	<-p.exited
}

// await probes until the probe succeeds, the process exits or time is up.
func (p *process) await(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s exited (%w); %s ends with:\n%s", p.name, exitError(p.err), p.log, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w); see %s", p.name, ctx.Err(), err, p.log)
		case <-tick.C:
		}
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("status 0")
	}
	return err
}

// tail returns a log's last lines.
func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}
