package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands before a registry: it counts requests, adds latency to every answer, and cuts connections.
type proxy struct {
	addr     string
	server   *http.Server
	delay    atomic.Int64 // of each answer
	requests atomic.Int64
	sent     atomic.Int64 // bytes of blobs that clients sent
	resent   atomic.Int64 // of these, bytes of an upload that were sent before
	cutAfter atomic.Int64 // of these, until the connection breaks; never when zero

	mu           sync.Mutex
	repositories map[string]int   // requests
	highest      map[string]int64 // byte of each upload that was sent
}

func newProxy(to string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: listener.Addr().String(), repositories: map[string]int{}, highest: map[string]int64{}}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	next := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	next.Transport = transport
	next.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	next.BufferPool = &buffers{sync.Pool{New: func() any { return make([]byte, 128<<10) }}}
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.count(r)
		time.Sleep(time.Duration(p.delay.Load())) // the link's latency, once for each request and answer
		if (r.Method == http.MethodPatch || r.Method == http.MethodPut) && strings.Contains(r.URL.Path, "/blobs/uploads/") {
			r.Body = p.watch(r)
		}
		next.ServeHTTP(w, r)
	})}
	go func() { _ = p.server.Serve(listener) }() // ends with close
	return p, nil
}

func (p *proxy) count(r *http.Request) {
	p.requests.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repositories[repositoryOf(r.URL.Path)]++
}

func (p *proxy) reset() {
	p.requests.Store(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.repositories)
}

// most returns the highest number of requests to one repository, and how many repositories were asked.
func (p *proxy) most() (requests, repositories int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.repositories {
		requests = max(requests, n)
	}
	return requests, len(p.repositories)
}

func (p *proxy) close() { _ = p.server.Close() }

// watch counts what of a chunk was sent before: its Content-Range says where it begins.
func (p *proxy) watch(r *http.Request) io.ReadCloser {
	c := &cutting{ReadCloser: r.Body, proxy: p, upload: r.URL.Path}
	if d := r.URL.Query().Get("digest"); d != "" && r.ContentLength > 0 {
		c.upload = d // sent whole: again in another upload, when it was cut
	}
	if first, _, ok := strings.Cut(r.Header.Get("Content-Range"), "-"); ok {
		c.at, _ = strconv.ParseInt(first, 10, 64) // our own client wrote it
	}
	return c
}

// cutting breaks a connection in the middle of what a client sends.
type cutting struct {
	io.ReadCloser
	proxy  *proxy
	upload string
	at     int64
}

// note counts n bytes that were sent.
func (c *cutting) note(n int64) {
	p := c.proxy
	p.sent.Add(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	highest := p.highest[c.upload]
	p.resent.Add(max(0, min(highest, c.at+n)-c.at))
	c.at += n
	p.highest[c.upload] = max(highest, c.at)
}

func (c *cutting) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.note(int64(n))
	if left := c.proxy.cutAfter.Load(); left > 0 {
		if c.proxy.cutAfter.Add(-int64(n)) <= 0 {
			c.proxy.cutAfter.Store(0)
			return 0, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return b.pool.Get().([]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(p) } //nolint:staticcheck // a slice's header is small beside what it holds
