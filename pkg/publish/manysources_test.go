package publish

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/oci"
)

// mirrors serves one repository under many names, counts how many are read at the same time, and breaks some.
type mirrors struct {
	*httptest.Server
	behind http.Handler

	mu       sync.Mutex
	inFlight map[string]int // requests by name
	most     int            // names at once
	requests int
	broken   map[string]bool
	together chan struct{} // closed once as many names as may be read at once are
	enough   int
}

var mirrorPath = regexp.MustCompile(`^/repo-(\d+)\.git/`)

func newMirrors(t *testing.T, of *githttp.Server, repository string, enough int) *mirrors {
	t.Helper()
	to, err := url.Parse(of.URL)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirrors{inFlight: map[string]int{}, broken: map[string]bool{}, together: make(chan struct{}), enough: enough}
	m.behind = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.URL.Path = mirrorPath.ReplaceAllString(r.In.URL.Path, "/"+repository+".git/")
	}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *mirrors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	matched := mirrorPath.FindStringSubmatch(r.URL.Path)
	if matched == nil {
		http.NotFound(w, r)
		return
	}
	name := matched[1]
	m.mu.Lock()
	m.requests++
	m.inFlight[name]++
	m.most = max(m.most, len(m.inFlight))
	broken := m.broken[name]
	if len(m.inFlight) == m.enough {
		select {
		case <-m.together:
		default:
			close(m.together)
		}
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.inFlight[name]--; m.inFlight[name] == 0 {
			delete(m.inFlight, name)
		}
	}()
	if broken {
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	}
	select { // the first wait for each other: they are read at the same time
	case <-m.together:
	case <-time.After(30 * time.Second):
	}
	m.behind.ServeHTTP(w, r)
}

func (m *mirrors) take() (requests, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	requests, most = m.requests, m.most
	m.requests, m.most = 0, 0
	return requests, most
}

// Many repositories are read a few at a time; unchanged they cost one request each; those that fail keep what
// clusters have of them.
func TestManyRepositories(t *testing.T) {
	const count = 40
	server, err := githttp.Start(t.TempDir(), githttp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if err := server.Create(t.Context(), "all"); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	sources := make([]string, count)
	m := newMirrors(t, server, "all", maxSourcesAtOnce)
	for i := range count {
		file := filepath.Join(work, fmt.Sprintf("b-%d", i), "cm.yaml")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(configMap("x", "1")), 0o600); err != nil {
			t.Fatal(err)
		}
		sources[i] = fmt.Sprintf("    - {name: s-%d, git: {url: %q}, paths: [b-%[1]d], targets: [{}]}\n", i, fmt.Sprintf("%s/repo-%d.git", m.URL, i))
	}
	if _, err := server.Commit(t.Context(), "all", "main", work, "all"); err != nil {
		t.Fatal(err)
	}
	fleet := t.TempDir()
	for name, content := range map[string]string{
		"pinnace.yaml":      strings.Split(fleetFile, "sources:")[0] + "sources:\n" + strings.Join(sources, ""),
		"clusters/all.yaml": cluster("east"),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(fleet, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fleet, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	registry, opts := oci.NewMemory(), options(t, fleet, releaseSigner(t))
	mustRun(t, registry, opts)
	if _, most := m.take(); most != maxSourcesAtOnce {
		t.Errorf("%d repositories were read at once, want %d", most, maxSourcesAtOnce)
	}
	before := digestsOf(t, registry, "east")
	if len(before) != count {
		t.Fatalf("%d bundles, want %d", len(before), count)
	}

	if again := mustRun(t, registry, opts); again.Changed() {
		t.Error("nothing changed, and something was published")
	}
	if requests, most := m.take(); requests != count || most > maxSourcesAtOnce {
		t.Errorf("unchanged: %d requests, %d at once; want %d and at most %d", requests, most, count, maxSourcesAtOnce)
	}

	m.broken["7"], m.broken["8"], m.broken["39"] = true, true, true
	result := mustRun(t, registry, opts)
	var failed []string
	for _, source := range result.Failed() {
		failed = append(failed, source.Name)
	}
	if got := strings.Join(failed, " "); got != "s-7 s-8 s-39" {
		t.Errorf("failed: %s", got)
	}
	if after := digestsOf(t, registry, "east"); len(after) != count {
		t.Errorf("the cluster has %d bundles, want %d", len(after), count)
	}
}
