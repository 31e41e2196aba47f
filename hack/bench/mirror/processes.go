package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"pinnace.dev/pinnace/pkg/oci"
)

// server is a registry on a folder, behind a proxy.
type server struct {
	root  string
	cmd   *exec.Cmd
	addr  string // of the registry itself
	proxy *proxy
}

// serve starts a registry. Through its proxy it always has the same address.
func (b *bench) serve(ctx context.Context, name string) (*server, error) {
	s := &server{root: filepath.Join(b.dir, name)}
	if err := s.start(ctx, b.program); err != nil {
		return nil, err
	}
	var err error
	if s.proxy, err = newProxy(s.addr); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	b.servers = append(b.servers, s)
	return s, nil
}

func (s *server) start(ctx context.Context, program string) error {
	s.cmd = exec.CommandContext(ctx, program, "registry", "serve", "--root", s.root, "--quiet")
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	s.addr = strings.TrimSpace(line)
	return err
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	_ = s.cmd.Wait()                         // it was told to end
	if s.proxy != nil {
		s.proxy.close()
	}
	return os.RemoveAll(s.root)
}

// prefix is the fleet's, through the proxy.
func (s *server) prefix() string { return s.proxy.addr + "/fleet" }

func (s *server) open() (oci.Registry, error) {
	return oci.Open(s.prefix(), oci.Options{PlainHTTP: true})
}

// pinnace runs the program and remembers the most memory that it took. The exit codes 0 and 1 are answers.
func (b *bench) pinnace(ctx context.Context, args ...string) ([]byte, error) {
	cmd := b.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	b.account(cmd)
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.ExitCode() == 1 {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("pinnace %s: %w: %s", strings.Join(args, " "), err, tail(errs.Bytes()))
	}
	return out.Bytes(), nil
}

func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.program, args...)
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "XDG_STATE_HOME="+filepath.Join(b.dir, "state"), "HOME="+b.dir)
	return cmd
}

// account takes the process's peak memory.
func (b *bench) account(cmd *exec.Cmd) {
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		if peak := usage.Maxrss << 10; peak > b.peak {
			b.peak = peak
			note("peak of pinnace %s %s: %d MiB", cmd.Args[1], cmd.Args[2], peak/mib)
		}
	}
}

// tail is the end of what a program said.
func tail(text []byte) string {
	const shown = 2000
	return string(text[max(0, len(text)-shown):])
}
