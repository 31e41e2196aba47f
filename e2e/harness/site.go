// Package harness brings up everything that a fleet needs, out of real parts, for the demo, the end-to-end tests and
// the benchmarks: control planes, the registry, a Git server, keys, a fleet repository, and agents.
//
// A [Site] holds one run's parts. [Site.NewFleet] makes a fleet that can be changed and published, [Site.NewAgent] an
// agent for one cluster; [Cluster] reads and changes what a cluster holds. Our own programs are always run as
// processes, as users run them.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"pinnace.dev/pinnace/e2e/controlplane"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/e2e/ports"
	"pinnace.dev/pinnace/e2e/process"
)

// Password of every private key that the harness makes.
const Password = "correct horse"

// Bounds of waiting.
const (
	// Patience is how long anything may take to come about on a busy machine.
	Patience = 90 * time.Second
	pollWait = 50 * time.Millisecond
)

// Options of a site. The zero value uses a temporary folder.
type Options struct {
	// Dir keeps everything; a temporary folder, removed by Close, when empty.
	Dir string
	// Log receives what building says; nothing when nil.
	Log io.Writer
}

// Site is one run's parts.
type Site struct {
	Dir string
	// Bin is the folder of pinnace and pinnace-agent.
	Bin   string
	Plane *controlplane.Plane
	Git   *githttp.Server

	procs   *process.Group
	ports   ports.Set
	ownsDir bool
	fleets  int
	agents  int
}

// Start builds what must be built and starts etcd and the Git server.
func Start(ctx context.Context, opts Options) (site *Site, err error) {
	s := &Site{Dir: opts.Dir, procs: process.NewGroup()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Dir == "" {
		if s.Dir, err = os.MkdirTemp("", "pinnace-site-"); err != nil {
			return nil, err
		}
		s.ownsDir = true
	}
	if s.Bin, err = programs(ctx, opts.Log); err != nil {
		return nil, err
	}
	s.Plane, err = controlplane.Start(ctx, controlplane.Options{Dir: filepath.Join(s.Dir, "clusters"), Log: opts.Log})
	if err != nil {
		return nil, err
	}
	repositories := filepath.Join(s.Dir, "git")
	if err := os.MkdirAll(repositories, 0o755); err != nil {
		return nil, err
	}
	s.Git, err = githttp.Start(repositories, githttp.Options{})
	return s, err
}

// programs builds pinnace and pinnace-agent, unless PINNACE_BIN names a folder that has them.
func programs(ctx context.Context, log io.Writer) (string, error) {
	if bin := os.Getenv("PINNACE_BIN"); bin != "" {
		return bin, nil
	}
	root, err := controlplane.ModuleRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin+"/", "./cmd/pinnace", "./cmd/pinnace-agent")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if log != nil {
		_, _ = log.Write(out) // only for people
	}
	if err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return bin, nil
}

// Close ends everything.
func (s *Site) Close() error {
	s.procs.Close()
	var errs []error
	if s.Git != nil {
		errs = append(errs, s.Git.Close())
	}
	if s.Plane != nil {
		errs = append(errs, s.Plane.Close())
	}
	errs = append(errs, s.ports.Release())
	if s.ownsDir {
		errs = append(errs, os.RemoveAll(s.Dir))
	}
	return errors.Join(errs...)
}

// Loopback reserves a loopback address for a server of the caller.
func (s *Site) Loopback() (addr string, err error) {
	port, err := s.ports.Reserve()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// ExitError is a program that ended with another code than 0.
type ExitError struct {
	Command string
	Code    int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with %d:\n%s", e.Command, e.Code, e.Stderr)
}

// Pinnace runs the command line and returns what it printed. A code other than 0 is an [*ExitError].
func (s *Site) Pinnace(ctx context.Context, args ...string) (stdout string, err error) {
	return s.run(ctx, "pinnace", nil, args...)
}

func (s *Site) run(ctx context.Context, program string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, program), args...)
	cmd.Env = append(os.Environ(), s.environment()...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Dir = s.Dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &ExitError{
			Command: program + " " + strings.Join(args, " "), Code: exit.ExitCode(),
			Stderr: strings.TrimSpace(stderr.String()),
		}
	}
	return stdout.String(), err
}

// environment keeps the user's own settings out: credentials, caches, kubeconfig.
func (s *Site) environment() []string {
	home := filepath.Join(s.Dir, "home")
	return []string{
		"COSIGN_PASSWORD=" + Password, "HOME=" + home, "DOCKER_CONFIG=" + filepath.Join(home, ".docker"),
		"XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"), "KUBECONFIG=" + os.DevNull, "NO_COLOR=1",
	}
}

// Key is a key pair in files.
type Key struct{ Private, Public string }

// NewKey generates a key pair below the site's folder.
func (s *Site) NewKey(ctx context.Context, name string) (Key, error) {
	prefix := filepath.Join(s.Dir, "keys", name)
	if err := os.MkdirAll(filepath.Dir(prefix), 0o700); err != nil {
		return Key{}, err
	}
	_, err := s.Pinnace(ctx, "keys", "generate", "--output-key-prefix", prefix)
	return Key{Private: prefix + ".key", Public: prefix + ".pub"}, err
}

// Until calls check until it returns nil, for at most [Patience].
func Until(ctx context.Context, what string, check func(context.Context) error) error {
	return within(ctx, Patience, what, check)
}

func within(ctx context.Context, patience time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollWait)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // an error that the end of patience caused says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// Always calls check for a while and returns the first error: for what must not happen.
func Always(ctx context.Context, while time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, while)
	defer cancel()
	tick := time.NewTicker(pollWait)
	defer tick.Stop()
	for {
		if err := check(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
