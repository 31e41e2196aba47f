package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

func start(t *testing.T, opts registry.Options) *registry.Server {
	t.Helper()
	server, err := registry.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func repository(t *testing.T, addr, name string, opts oci.Options) oci.Repository {
	t.Helper()
	opts.PlainHTTP = true
	reg, err := oci.Open(addr+"/fleet", opts)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := reg.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

var artifact = oci.Artifact{
	Type: "application/vnd.example.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte("hello")}},
}

// A push notifies, with headers, and after the receiver was away; a pull and a blob don't.
func TestNotifications(t *testing.T) {
	type event struct {
		Action string
		Target struct{ Repository, Tag, MediaType string }
	}
	events := make(chan event, 16)
	var refused bool
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !refused {
			refused = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var envelope struct{ Events []event }
		if err := json.NewDecoder(r.Body).Decode(&envelope); err != nil {
			t.Error(err)
		}
		if got, want := r.Header.Get("Authorization"), "Bearer s3cret"; got != want {
			t.Errorf("Authorization: got %q, want %q", got, want)
		}
		for _, e := range envelope.Events {
			events <- e
		}
	}))
	defer hook.Close()
	server := start(t, registry.Options{Notify: []registry.Endpoint{{
		URL: hook.URL, Headers: http.Header{"Authorization": {"Bearer s3cret"}},
	}}})

	repo := repository(t, server.Addr, "targets/a", oci.Options{})
	if _, _, err := oci.Push(t.Context(), repo, artifact, "current"); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(t.Context(), "current"); err != nil {
		t.Fatal(err)
	}
	marker := artifact
	marker.Annotations = map[string]string{"n": "2"}
	if _, _, err := oci.Push(t.Context(), repo, marker, "next"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"current", "next"} {
		got := <-events
		if got.Action != "push" || got.Target.Repository != "fleet/targets/a" || got.Target.Tag != want {
			t.Errorf("got %+v, want a push of fleet/targets/a:%s", got, want)
		}
	}
}

func TestUsers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("pass"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	htpasswd := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(htpasswd, []byte("ci:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, registry.Options{Htpasswd: htpasswd})
	for _, tt := range []struct {
		name, login string
		want        error
	}{
		{"right", "ci:pass", nil},
		{"wrong", "ci:guess", oci.ErrUnauthorized},
		{"none", "", oci.ErrUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := `{"auths":{}}`
			if tt.login != "" {
				config = `{"auths":{"` + server.Addr + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(tt.login)) + `"}}}`
			}
			file := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := oci.Push(t.Context(), repository(t, server.Addr, "a", oci.Options{DockerConfig: file}), artifact, "v1")
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	taken := start(t, registry.Options{})
	for _, tt := range []struct {
		name string
		opts registry.Options
		want string
	}{
		{"users absent", registry.Options{Htpasswd: absent}, "htpasswd -Bc"},
		{"certificate alone", registry.Options{CertFile: file}, "needs its key"},
		{"certificate empty", registry.Options{CertFile: file, KeyFile: file}, "load certificate"},
		{"root is a file", registry.Options{Root: file}, "not a directory"},
		{"address taken", registry.Options{Addr: taken.Addr}, "in use"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, err := registry.Start(tt.opts)
			if err == nil {
				_ = server.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
	if _, err := os.Stat(absent); err == nil {
		t.Error("users were invented")
	}
}

// A client that connected and said nothing doesn't hold the end up.
func TestCloseDoesNotWaitForSilentClients(t *testing.T) {
	server, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := repository(t, server.Addr, "a", oci.Options{}).Resolve(t.Context(), "none"); !errors.Is(err, oci.ErrNotFound) {
		t.Fatal(err) // an answer on a later connection shows that the first one was accepted
	}
	started := time.Now()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("closing took %s", took)
	}
}

func TestServeStopsWithItsContextAndIsQuiet(t *testing.T) {
	stdout, stderr := captureOutput(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- registry.Serve(ctx, registry.Options{Root: t.TempDir()}, func(addr string) { ready <- addr })
	}()
	addr := <-ready
	repo := repository(t, addr, "absent", oci.Options{})
	if _, err := repo.Resolve(t.Context(), "none"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("got %v, want %v", err, oci.ErrNotFound)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if res, err := http.Get("http://" + addr + "/v2/"); err == nil {
		_ = res.Body.Close()
		t.Error("it still answers")
	}
	if out := stdout() + stderr(); out != "" {
		t.Errorf("it printed:\n%s", out)
	}
}

// captureOutput replaces the process's outputs; the functions put them back and return what was written.
func captureOutput(t *testing.T) (stdout, stderr func() string) {
	t.Helper()
	capture := func(stream **os.File) func() string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		original := *stream
		*stream = w
		var buffer bytes.Buffer
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(&buffer, r)
		}()
		return func() string {
			*stream = original
			_ = w.Close()
			<-read
			return buffer.String()
		}
	}
	return capture(&os.Stdout), capture(&os.Stderr)
}

// A registry that can only be read serves what its folder got by other means, also while it runs.
func TestReadOnly(t *testing.T) {
	root := t.TempDir()
	writable, readOnly := start(t, registry.Options{Root: root}), start(t, registry.Options{Root: root, ReadOnly: true})
	there := repository(t, readOnly.Addr, "bundles/web", oci.Options{})
	desc, _, err := oci.Push(t.Context(), repository(t, writable.Addr, "bundles/web", oci.Options{}), artifact, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.Push(t.Context(), there, artifact, "v2"); err == nil {
		t.Error("a push succeeded")
	}
	if err := there.Delete(t.Context(), desc); err == nil {
		t.Error("something could be deleted")
	}
	if _, err := there.Resolve(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	if _, err := there.Resolve(t.Context(), "v2"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the tag of a refused push: got %v, want %v", err, oci.ErrNotFound)
	}
}
