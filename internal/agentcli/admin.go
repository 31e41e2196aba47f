package agentcli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent"
)

// socketFile, in the state folder, is where a running agent takes commands. Who may read the folder may command: the
// agent's own user, and root. So kubectl exec works, and nothing listens on the network.
const socketFile = "agent.sock"

const (
	// adminPatience bounds a command: the loop answers between two steps.
	adminPatience = 10 * time.Second
	// maxAnswer bounds what a command reads: the status of 10,000 bundles with ten problems each fits.
	maxAnswer = 64 << 20
)

// serveAdmin opens the socket. What an agent that was killed left there is replaced: the state folder's lock is ours.
func serveAdmin(e *endpoints, setup *setup, fail context.CancelCauseFunc) error {
	path := filepath.Join(setup.spec.StateDir, socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usagef("open %s: %w; remove it", path, err)
	}
	// The folder keeps others out already; the mask does so from the first moment on where it was opened to a group.
	before := unix.Umask(0o177)
	listener, err := net.Listen("unix", path)
	unix.Umask(before)
	if err != nil {
		return usagef("open %s for pinnace-agent why and its like: %w; choose a spec.stateDir with a shorter path", path, err)
	}
	e.serve(listener, path, admin(setup.agent), fail)
	return nil
}

// admin answers commands of people.
func admin(a *agent.Agent) http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, do func(ctx context.Context, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), adminPatience)
			defer cancel()
			result, err := do(ctx, r)
			if err != nil {
				status := http.StatusConflict
				switch {
				case errors.Is(err, agent.ErrNoBundle):
					status = http.StatusNotFound
				case errors.Is(err, agent.ErrNotAtWork):
					status = http.StatusServiceUnavailable
				}
				http.Error(w, err.Error(), status)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(result) // the client is gone
		})
	}
	bundles := func(r *http.Request) []string { return r.URL.Query()["bundle"] }
	answer("GET /v1/status", func(ctx context.Context, _ *http.Request) (any, error) { return a.Overview(ctx) })
	answer("GET /v1/bundles/{bundle}", func(ctx context.Context, r *http.Request) (any, error) {
		return a.Explain(ctx, r.PathValue("bundle"))
	})
	answer("POST /v1/suspend", func(ctx context.Context, r *http.Request) (any, error) { return nil, a.Suspend(ctx, bundles(r)...) })
	answer("POST /v1/resume", func(ctx context.Context, r *http.Request) (any, error) { return nil, a.Resume(ctx, bundles(r)...) })
	answer("POST /v1/sync", func(ctx context.Context, r *http.Request) (any, error) { return nil, a.Look(ctx, bundles(r)...) })
	return mux
}

// errNoAgent is the error for a state folder that no agent works on.
var errNoAgent = errors.New("no agent is running on this state folder; start it with pinnace-agent run")

// ask sends a command to the agent that runs with the configuration, and decodes its answer.
func (s *session) ask(ctx context.Context, file, method, path string, bundles []string, into any) error {
	spec, err := loadConfig(file)
	if err != nil {
		return err
	}
	socket := filepath.Join(spec.StateDir, socketFile)
	client := &http.Client{
		Timeout: 2 * adminPatience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
	address := url.URL{Scheme: "http", Host: "agent", Path: path, RawQuery: url.Values{"bundle": bundles}.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, address.String(), http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return exitcode.With(exitcode.Unreachable, fmt.Errorf("%s: %w", socket, errNoAgent))
	case errors.Is(err, fs.ErrPermission):
		return exitcode.With(exitcode.Unauthorized, fmt.Errorf("%s: only the agent's own user and root may command it: %w", socket, fs.ErrPermission))
	case err != nil:
		return exitcode.With(exitcode.Unreachable, fmt.Errorf("ask the agent at %s: %w", socket, err))
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return exitcode.With(exitcode.Unreachable, fmt.Errorf("ask the agent at %s: %w", socket, err))
	}
	if response.StatusCode != http.StatusOK {
		err := errors.New(strings.TrimSpace(string(answer)))
		switch response.StatusCode {
		case http.StatusNotFound:
			return exitcode.With(exitcode.NotFound, err)
		case http.StatusServiceUnavailable:
			return exitcode.With(exitcode.Unreachable, err)
		}
		return exitcode.With(exitcode.No, err)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(answer)).Decode(into); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
