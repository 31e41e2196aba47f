package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// meter stands between agents and the registry: it counts requests and every byte that goes back over the wire.
type meter struct {
	addr string

	server   *http.Server
	requests atomic.Int64
	polls    atomic.Int64
	bytes    atomic.Int64
}

func newMeter(ctx context.Context, registry string) (*meter, error) {
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	m := &meter{}
	m.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.Add(1)
		if r.Method == http.MethodHead && len(r.URL.Path) > len(v1alpha1.TagCurrent) &&
			r.URL.Path[len(r.URL.Path)-len(v1alpha1.TagCurrent):] == v1alpha1.TagCurrent {
			m.polls.Add(1)
		}
		behind.ServeHTTP(w, r)
	})}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	m.addr = listener.Addr().String()
	go func() { _ = m.server.Serve(countingListener{listener, m}) }() // ends with close
	return m, nil
}

func (m *meter) close() error { return m.server.Close() }

func (m *meter) reset() {
	m.requests.Store(0)
	m.polls.Store(0)
	m.bytes.Store(0)
}

type countingListener struct {
	net.Listener
	meter *meter
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn, l.meter}, nil
}

type countingConn struct {
	net.Conn
	meter *meter
}

func (c countingConn) Write(data []byte) (int, error) {
	n, err := c.Conn.Write(data)
	c.meter.bytes.Add(int64(n))
	return n, err
}
