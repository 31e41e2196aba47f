// Package githttp serves Git repositories over HTTP as forges do, by git http-backend, for tests and the demo.
//
// [Start] serves every repository below a folder; [Server.Create] adds one and [Server.Commit] fills it from a folder.
package githttp

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Options of a server. The zero value serves everybody.
type Options struct {
	// Username and Password are asked for by basic authentication when Password is set.
	Username, Password string
	// Address to listen on; a free port on loopback when empty.
	Address string
	// OnPush is called after each push, with the repository's name: web for /web.git.
	OnPush func(repository string)
}

// Server serves the repositories below one folder.
type Server struct {
	// URL of the folder, such as http://127.0.0.1:40123.
	URL string

	root     string
	http     *http.Server
	done     chan error
	requests atomic.Int64
}

// Start serves the repositories below root until Close. It needs the git command.
func Start(root string, options Options) (*Server, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	// The command itself stands in git's own folder, which is not in PATH.
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("serve git repositories: install git: %w", err)
	}
	address := options.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve git repositories: %w", err)
	}
	s := &Server{URL: "http://" + listener.Addr().String(), root: root, done: make(chan error, 1)}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env: append(gitEnvironment(),
			"GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER="+options.Username),
		Stderr: os.Stderr,
	}
	s.http = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.requests.Add(1)
			if options.Password != "" {
				username, password, _ := r.BasicAuth()
				if username != options.Username ||
					subtle.ConstantTimeCompare([]byte(password), []byte(options.Password)) != 1 {
					w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
					http.Error(w, "who are you?", http.StatusUnauthorized)
					return
				}
			}
			backend.ServeHTTP(w, r)
			repository, push := strings.CutSuffix(r.URL.Path, ".git/git-receive-pack")
			if push && options.OnPush != nil {
				options.OnPush(strings.TrimPrefix(repository, "/"))
			}
		}),
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// Requests counts the HTTP requests so far.
func (s *Server) Requests() int64 { return s.requests.Load() }

// Close stops the server and waits for it.
func (s *Server) Close() error {
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Repository returns the URL of a repository.
func (s *Server) Repository(name string) string { return s.URL + "/" + name + ".git" }

// Dir returns the folder of a repository.
func (s *Server) Dir(name string) string { return filepath.Join(s.root, name+".git") }

// Create makes an empty repository that accepts pushes; its HEAD is the branch main.
func (s *Server) Create(ctx context.Context, name string) error {
	if _, err := s.git(ctx, "", "init", "--quiet", "--bare", "--initial-branch=main", s.Dir(name)); err != nil {
		return err
	}
	_, err := s.git(ctx, "", "--git-dir="+s.Dir(name), "config", "http.receivepack", "true")
	return err
}

// Commit puts what dir holds on top of a branch, as one commit, and returns its hash. Nobody is notified.
func (s *Server) Commit(ctx context.Context, name, branch, dir, message string) (string, error) {
	repository := "--git-dir=" + s.Dir(name)
	if _, err := s.git(ctx, dir, repository, "--work-tree=.", "add", "--all", "--force", "."); err != nil {
		return "", err
	}
	tree, err := s.git(ctx, dir, repository, "write-tree")
	if err != nil {
		return "", err
	}
	commit := []string{repository, "commit-tree", "-m", message, tree}
	if parent, err := s.git(ctx, dir, repository, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch); err == nil {
		commit = append(commit, "-p", parent)
	}
	hash, err := s.git(ctx, dir, commit...)
	if err != nil {
		return "", err
	}
	_, err = s.git(ctx, dir, repository, "update-ref", "refs/heads/"+branch, hash)
	return hash, err
}

func (s *Server) git(ctx context.Context, dir string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir = dir
	command.Env = append(os.Environ(), gitEnvironment()...)
	command.Env = append(command.Env,
		"GIT_AUTHOR_NAME=pinnace", "GIT_AUTHOR_EMAIL=pinnace@example.com",
		"GIT_COMMITTER_NAME=pinnace", "GIT_COMMITTER_EMAIL=pinnace@example.com")
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// gitEnvironment keeps the configuration of the machine and of its user out.
func gitEnvironment() []string {
	return []string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}
}
