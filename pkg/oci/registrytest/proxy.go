// Package registrytest helps to test against registries: [New] starts one in this process whose requests are recorded
// and into which a test injects faults; [Conformance] is the contract of oci.Registry as a test suite, run over every
// implementation and over real registries.
package registrytest

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// Kind of a request's subject.
type Kind string

// The kinds.
const (
	KindBase      Kind = "base" // GET /v2/
	KindManifest  Kind = "manifest"
	KindBlob      Kind = "blob"
	KindUpload    Kind = "upload"
	KindTags      Kind = "tags"
	KindReferrers Kind = "referrers"
	KindOther     Kind = "other"
)

// Request is what came in.
type Request struct {
	At         time.Time // when it came in
	Method     string
	Kind       Kind
	Repository string // full name, with the fleet's prefix
	Reference  string // tag, digest or upload's identifier
	// Refused is set when an injected fault answered instead of the registry.
	Refused bool
}

// Match selects requests; an empty field matches everything.
type Match struct {
	Method     string
	Kind       Kind
	Repository string // exact, or with a trailing * a prefix
	Reference  string
}

// Proxy stands before a registry's handler, records requests and injects faults.
type Proxy struct {
	next http.Handler

	mu       sync.Mutex
	requests []Request
	faults   []*Fault
}

// NewProxy returns a proxy before a registry's handler.
func NewProxy(next http.Handler) *Proxy { return &Proxy{next: next} }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := parse(r)
	p.mu.Lock()
	fault := p.take(request)
	request.Refused = fault != nil && fault.answers()
	p.requests = append(p.requests, request)
	p.mu.Unlock()
	if fault == nil {
		p.next.ServeHTTP(w, r)
		return
	}
	fault.serve(w, r, p.next)
}

// take returns the first fault that is due for the request.
func (p *Proxy) take(request Request) *Fault {
	for i, fault := range p.faults {
		if !fault.Match.matches(request) {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		if fault.Times == 1 {
			p.faults = slices.Delete(p.faults, i, i+1)
		} else if fault.Times > 1 {
			fault.Times--
		}
		return fault
	}
	return nil
}

// Inject adds a fault. Of several that match a request, the first injected acts.
func (p *Proxy) Inject(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault)
}

// Heal removes all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Requests returns what came in that matches, in order.
func (p *Proxy) Requests(match Match) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Request
	for _, request := range p.requests {
		if match.matches(request) {
			found = append(found, request)
		}
	}
	return found
}

// Count returns how many requests came in that match.
func (p *Proxy) Count(match Match) int { return len(p.Requests(match)) }

// Reset forgets what came in.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

func (m Match) matches(r Request) bool {
	repository := m.Repository == "" || m.Repository == r.Repository
	if n := len(m.Repository); n > 0 && m.Repository[n-1] == '*' {
		repository = len(r.Repository) >= n-1 && r.Repository[:n-1] == m.Repository[:n-1]
	}
	return repository && (m.Method == "" || m.Method == r.Method) && (m.Kind == "" || m.Kind == r.Kind) &&
		(m.Reference == "" || m.Reference == r.Reference)
}

// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
var endpoint = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs/uploads|blobs|tags|referrers)/(.*)$`)

func parse(r *http.Request) Request {
	request := Request{At: time.Now(), Method: r.Method, Kind: KindOther}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		request.Kind = KindBase
	}
	if m := endpoint.FindStringSubmatch(r.URL.Path); m != nil {
		request.Repository, request.Reference = m[1], m[3]
		request.Kind = map[string]Kind{
			"manifests": KindManifest, "blobs": KindBlob, "blobs/uploads": KindUpload, "tags": KindTags,
			"referrers": KindReferrers,
		}[m[2]]
	}
	return request
}

// Server is a registry on loopback behind a proxy. It ends with the test.
type Server struct {
	*Proxy
	// Addr is host:port, plain HTTP.
	Addr string
}

// New starts the embedded registry in memory.
func New(t testing.TB) *Server {
	t.Helper()
	handler, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	return Wrap(t, handler)
}

// Wrap starts a server for any registry's handler.
func Wrap(t testing.TB, handler http.Handler) *Server {
	t.Helper()
	proxy := NewProxy(handler)
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return &Server{Proxy: proxy, Addr: server.Listener.Addr().String()}
}

// Prefix is the fleet's prefix that Registry uses.
func (s *Server) Prefix() string { return s.Addr + "/fleet" }

// Registry opens the server as a client does.
func (s *Server) Registry(t testing.TB) oci.Registry {
	t.Helper()
	opened, err := oci.Open(s.Prefix(), oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}
