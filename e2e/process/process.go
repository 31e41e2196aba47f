// Package process starts programs that end with this one, whatever way it ends, for tests and the demo.
//
// A [Group] starts programs and ends all of them; each [Process] writes its output to a file.
package process

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

// Bounds: a starved machine is slow, a broken program is stuck.
const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 15 * time.Second
	probeEvery   = 20 * time.Millisecond
)

// Group starts processes, all from one operating system thread: Linux sends the parent-death signal when the thread
// that forked ends, not when the process does, so that thread must live as long as its children may.
type Group struct {
	jobs chan func()
	done chan struct{}

	mu     sync.Mutex
	procs  []*Process
	closed bool
}

// Command is a program to start.
type Command struct {
	// Name is for messages; the program's file name when empty.
	Name    string
	Program string
	Args    []string
	// Env is added to this process's environment.
	Env []string
	Dir string
	// Log is the file that the output is appended to.
	Log string
}

// Process is a program that was started.
type Process struct {
	Name string
	Log  string
	// Exited is closed when the process ended.
	Exited <-chan struct{}

	cmd *exec.Cmd
	err error // why it exited; read after Exited
}

// NewGroup returns an empty group, to be closed.
func NewGroup() *Group {
	g := &Group{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(g.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range g.jobs {
			job()
		}
	}()
	return g
}

// Start starts a program in a process group of its own, so that the terminal's Ctrl-C is this process's alone.
func (g *Group) Start(command Command) (*Process, error) {
	if command.Name == "" {
		command.Name = filepath.Base(command.Program)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, fmt.Errorf("start %s: everything was stopped already", command.Name)
	}
	if err := os.MkdirAll(filepath.Dir(command.Log), 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(command.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own
	// No context: a process outlives the call that started it, and ends with its group.
	cmd := exec.Command(command.Program, command.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = command.Dir, out, out
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	g.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", command.Name, err)
	}
	exited := make(chan struct{})
	p := &Process{Name: command.Name, Log: command.Log, Exited: exited, cmd: cmd}
	go func() {
		defer close(exited)
		p.err = cmd.Wait()
	}()
	g.procs = append(g.procs, p)
	return p, nil
}

// Close kills everything and waits. Closing twice is fine.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	for _, p := range slices.Backward(g.procs) {
		p.signal(syscall.SIGKILL)
	}
	for _, p := range g.procs {
		<-p.Exited
	}
	close(g.jobs)
	<-g.done
}

// PID is the process's id, for reading what the system says of it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process as a power cut would, and waits.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.Exited
}

// Stop asks the process to end and waits. One that takes too long is killed, and one that fails is an error.
func (p *Process) Stop() error {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.Exited:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s did not stop within %s; %s", p.Name, stopTimeout, p.ending())
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() != -1 && exit.ExitCode() != interrupted {
		return fmt.Errorf("%s stopped with %w; %s", p.Name, p.err, p.ending())
	}
	return nil
}

// interrupted is the exit code of our programs when they were asked to end.
const interrupted = 130

func (p *Process) signal(signal syscall.Signal) {
	select {
	case <-p.Exited: // its id may be somebody else's by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, signal) // it may just have exited
	}
}

// ExitCode waits for the process and returns its code, or -1 when a signal ended it.
func (p *Process) ExitCode(ctx context.Context) (int, error) {
	select {
	case <-p.Exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s runs on: %w; %s", p.Name, ctx.Err(), p.ending())
	}
}

// Await probes until the probe succeeds, the process exits or time is up.
func (p *Process) Await(ctx context.Context, probe func(context.Context) error) error {
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
		case <-p.Exited:
			return fmt.Errorf("%s exited with status %d; %s", p.Name, p.cmd.ProcessState.ExitCode(), p.ending())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w); see %s", p.Name, ctx.Err(), err, p.Log)
		case <-tick.C:
		}
	}
}

// ending returns the log's last lines, for an error.
func (p *Process) ending() string {
	content, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return fmt.Sprintf("%s ends with:\n%s", p.Log, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}
