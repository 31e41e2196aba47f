package oci

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry"
)

// Bounds on what an answer may make a client do.
const (
	// maxRedirects stops redirects that lead in a circle.
	maxRedirects = 5
	// maxHeaderBytes stops headers that fill the memory.
	maxHeaderBytes = 256 << 10
	// DefaultStall stops bodies that never end by never coming: that long without minStallBytes is given up.
	DefaultStall = 30 * time.Second
	// minStallBytes is what must come within a stall's time: a body that drips is as good as none.
	minStallBytes = 1 << 10
)

// ErrUnsafe says that a registry's answer would have made this client do what it must not: ask others for tokens, send
// credentials elsewhere, leave TLS, or follow redirects without end.
var ErrUnsafe = errors.New("unsafe answer")

// knownTokenHosts issue tokens for well-known registries on hosts of another name.
var knownTokenHosts = map[string]string{
	"registry-1.docker.io": "auth.docker.io",
	"registry.gitlab.com":  "gitlab.com",
}

// guard lets requests go to the registry only. A registry says itself where tokens are had and where uploads go on: one
// that is hostile sends credentials, or requests into the inner network, wherever it likes.
type guard struct {
	next  http.RoundTripper
	host  string // host[:port] of the registry
	token []string
	stall time.Duration
}

func newGuard(next http.RoundTripper, host string, opts Options) *guard {
	g := &guard{next: next, host: (registry.Reference{Registry: host}).Host(), token: slices.Clone(opts.TokenHosts), stall: opts.Stall}
	if known := knownTokenHosts[hostOf(g.host)]; known != "" {
		g.token = append(g.token, known)
	}
	if g.stall <= 0 {
		g.stall = DefaultStall
	}
	return g
}

// RoundTrip refuses a first request to another host; redirects were checked before.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Response == nil && !g.knows(req.URL) {
		return nil, fmt.Errorf("%w: %s wants a request sent to %s; if that is right, name the host among the registry's token hosts (tokenHosts, --token-host)",
			ErrUnsafe, g.host, req.URL.Host)
	}
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = newStalling(resp.Body, g.stall)
	return resp, nil
}

// knows reports whether a host is the registry's, or one that tokens may be asked of.
func (g *guard) knows(to *url.URL) bool {
	if strings.EqualFold(hostOf(to.Host), hostOf(g.host)) {
		return true
	}
	return slices.ContainsFunc(g.token, func(host string) bool {
		return strings.EqualFold(host, to.Host) || strings.EqualFold(host, to.Hostname())
	})
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// checkRedirect follows redirects to storage on other hosts, but takes no credentials along, never leaves TLS, and goes
// to no address that only this machine can reach.
func (g *guard) checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("%w: more than %d redirects", ErrUnsafe, maxRedirects)
	case first.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: redirected from https to %s", ErrUnsafe, req.URL.Scheme)
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("%w: redirected to %s", ErrUnsafe, req.URL.Scheme)
	case linkLocal(req.URL.Hostname()):
		return fmt.Errorf("%w: redirected to %s, which only this machine can reach", ErrUnsafe, req.URL.Hostname())
	}
	if !strings.EqualFold(req.URL.Host, first.Host) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

// linkLocal reports whether a host is where clouds keep a machine's own credentials.
func linkLocal(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLinkLocalUnicast()
}

// stalling gives a body up that comes too slowly. Only the time that a Read waits counts: the reader may take its own.
type stalling struct {
	io.ReadCloser
	within, left time.Duration
	gaveUp       atomic.Bool
	count        int
}

func newStalling(body io.ReadCloser, within time.Duration) io.ReadCloser {
	if body == http.NoBody {
		return body
	}
	return &stalling{ReadCloser: body, within: within, left: within}
}

func (s *stalling) Read(p []byte) (int, error) {
	started := time.Now()
	timer := time.AfterFunc(s.left, func() {
		s.gaveUp.Store(true)
		_ = s.ReadCloser.Close() // ends a Read that waits
	})
	n, err := s.ReadCloser.Read(p)
	timer.Stop()
	s.left -= time.Since(started)
	if s.count += n; s.count >= minStallBytes {
		s.count, s.left = 0, s.within
	}
	switch {
	case errors.Is(err, io.EOF):
		return n, err
	case s.gaveUp.Load() || err == nil && s.left <= 0:
		return n, fmt.Errorf("%w: fewer than %d bytes came within %s", ErrUnreachable, minStallBytes, s.within)
	case err != nil:
		// The network's doing, not the content's: what was cut off is asked for again.
		return n, fmt.Errorf("%w: the answer broke off: %w", ErrUnreachable, err)
	}
	return n, nil
}
