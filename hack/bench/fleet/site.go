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
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// site is a registry in a process of its own, doors to it, and a receiver of its notifications.
type site struct {
	addr   string // of the registry itself
	agents *door  // of agents and publisher
	other  *door  // of whoever reads the status and steps a rollout
	notify atomic.Bool
	hint   func(cluster string)

	process  *exec.Cmd
	receiver *http.Server
	cancel   context.CancelFunc
}

// startSite starts everything; stored is told of every tag that agents and publisher set.
func startSite(ctx context.Context, root string, stored func(repository, tag string, at time.Time)) (s *site, err error) {
	bin := os.Getenv("PINNACE_BIN")
	if bin == "" {
		return nil, errors.New("PINNACE_BIN is not set; run it with make bench-fleet")
	}
	ctx, cancel := context.WithCancel(ctx)
	s = &site{cancel: cancel, hint: func(string) {}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	hooks, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.receiver = &http.Server{Handler: http.HandlerFunc(s.receive), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.receiver.Serve(hooks) }() // it ends with close
	process := exec.CommandContext(ctx, filepath.Join(bin, "pinnace"), "registry", "serve", "--addr", "127.0.0.1:0",
		"--root", root, "--notify", "http://"+hooks.Addr().String(), "--quiet")
	process.Stderr = os.Stderr
	out, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	s.process = process
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the registry did not start: %w", err)
	}
	s.addr = strings.TrimSpace(line)
	if s.agents, err = openDoor(s.addr, stored); err != nil {
		return nil, err
	}
	s.other, err = openDoor(s.addr, nil)
	return s, err
}

// close ends everything.
func (s *site) close() {
	s.cancel()
	for _, door := range []*door{s.agents, s.other} {
		if door != nil {
			door.close()
		}
	}
	if s.receiver != nil {
		_ = s.receiver.Close()
	}
	if s.process != nil {
		_ = s.process.Wait() // it was told to end
	}
}

// receive takes the registry's notifications, and hints the agents whose target moved, as a webhook does.
func (s *site) receive(w http.ResponseWriter, r *http.Request) {
	var envelope struct {
		Events []struct {
			Action string                           `json:"action"`
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
		cluster, is := clusterOf(event.Target.Repository, v1alpha1.TargetRepository(""))
		if is && event.Action == "push" && event.Target.Tag == v1alpha1.TagCurrent {
			s.hint(cluster)
		}
	}
}

// clusterOf returns the cluster of a repository of that kind, targets/ or status/.
func clusterOf(repository, kind string) (string, bool) {
	_, cluster, is := strings.Cut(repository, "/"+kind)
	return cluster, is
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
