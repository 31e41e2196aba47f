package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"
)

// door is one way to the registry, with its own counts of what goes through: the agents have one, and whoever reads the
// status or steps a rollout has another, so that each is measured apart.
type door struct {
	addr string
	// requests of all kinds; heads of them ask for a manifest's digest, writes of them store a manifest or a tag.
	requests, heads, writes atomic.Int64
	// bytes that went over connections, both ways, with the headers of HTTP; no TLS.
	bytes atomic.Int64

	server *http.Server
}

// openDoor listens. stored, if not nil, is called when a manifest was stored under a tag.
func openDoor(registry string, stored func(repository, tag string, at time.Time)) (*door, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	const idle = 512 // connections that are kept: agents come in bursts when they are notified
	d := &door{addr: listener.Addr().String()}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", registry // the host stays: uploads go on at the address that was asked
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: idle, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that end in the middle, when the benchmark does
		ModifyResponse: func(response *http.Response) error {
			d.count(response, stored)
			return nil
		},
	}
	d.server = &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go func() { _ = d.server.Serve(&countedListener{listener, &d.bytes}) }() // it ends with close
	return d, nil
}

func (d *door) close() { _ = d.server.Close() }

func (d *door) count(response *http.Response, stored func(repository, tag string, at time.Time)) {
	d.requests.Add(1)
	repository, reference, manifest := strings.Cut(strings.TrimPrefix(response.Request.URL.Path, "/v2/"), "/manifests/")
	switch {
	case !manifest:
	case response.Request.Method == http.MethodHead:
		d.heads.Add(1)
	case response.Request.Method == http.MethodPut && response.StatusCode == http.StatusCreated:
		d.writes.Add(1)
		if stored != nil {
			stored(repository, reference, time.Now())
		}
	}
}

type countedListener struct {
	net.Listener
	bytes *atomic.Int64
}

func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, l.bytes}, nil
}

type countedConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}
