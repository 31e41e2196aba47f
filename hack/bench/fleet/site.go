package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// site is a registry in a process of its own, a proxy before it that counts bytes, and a receiver of its notifications.
type site struct {
	proxy  string // where agents and publisher reach the registry
	bytes  atomic.Int64
	notify atomic.Bool
	hint   func(cluster string)

	process  *exec.Cmd
	listener net.Listener
	receiver *http.Server
	cancel   context.CancelFunc
}

func startSite(ctx context.Context, root string) (*site, error) {
	bin := os.Getenv("PINNACE_BIN")
	if bin == "" {
		return nil, errors.New("PINNACE_BIN is not set; run it with make bench-fleet")
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &site{cancel: cancel, hint: func(string) {}}
	hooks, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.receiver = &http.Server{Handler: http.HandlerFunc(s.receive)}
	go func() { _ = s.receiver.Serve(hooks) }()
	s.process = exec.CommandContext(ctx, filepath.Join(bin, "pinnace"), "registry", "serve", "--addr", "127.0.0.1:0",
		"--root", root, "--notify", "http://"+hooks.Addr().String(), "--quiet")
	s.process.Stderr = os.Stderr
	out, err := s.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the registry did not start: %w", err)
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.proxy = s.listener.Addr().String()
	go s.forward(ctx, strings.TrimSpace(line))
	return s, nil
}

// close ends everything.
func (s *site) close() {
	s.cancel()
	_ = s.listener.Close()
	_ = s.receiver.Close()
	_ = s.process.Wait() // it was told to end
}

// forward carries bytes between agents and registry, and counts them.
func (s *site) forward(ctx context.Context, registry string) {
	for {
		in, err := s.listener.Accept()
		if err != nil {
			return
		}
		var dialer net.Dialer
		out, err := dialer.DialContext(ctx, "tcp", registry)
		if err != nil {
			_ = in.Close()
			continue
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				_, _ = io.Copy(pair[0], &counted{pair[1], &s.bytes})
				_ = errors.Join(pair[0].Close(), pair[1].Close())
			}()
		}
	}
}

type counted struct {
	io.Reader
	bytes *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// receive takes the registry's notifications, and hints the agents whose target moved, as a webhook does.
func (s *site) receive(w http.ResponseWriter, r *http.Request) {
	var envelope struct {
		Events []struct {
			Target struct{ Repository, Tag string } `json:"target"`
		} `json:"events"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&envelope); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.notify.Load() {
		return
	}
	for _, event := range envelope.Events {
		_, cluster, is := strings.Cut(event.Target.Repository, "/"+v1alpha1.TargetRepository(""))
		if is && event.Target.Tag == v1alpha1.TagCurrent {
			s.hint(cluster)
		}
	}
}

// cpu is how much processor time the registry has used, in seconds.
func (s *site) cpu() float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const utime, stime, hertz = 11, 12, 100 // after the name; proc(5)
	used := 0.0
	for _, field := range []int{utime, stime} {
		ticks, err := strconv.ParseFloat(fields[field], 64)
		if err == nil {
			used += ticks / hertz
		}
	}
	return used
}
