package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"pinnace.dev/pinnace/pkg/oci/registry"
)

// counted is the embedded registry on a folder of its own, with its requests counted.
type counted struct {
	addr           string
	requests, puts atomic.Int64

	root    string
	handler *registry.Handler
	server  *http.Server
	served  chan error
}

func (b *bench) registry(name string) (*counted, error) {
	c := &counted{root: filepath.Join(b.dir, "registry-"+name), served: make(chan error, 1)}
	var err error
	if c.handler, err = registry.New(registry.Options{Root: c.root}); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, c.handler.Close())
	}
	c.addr = listener.Addr().String()
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second}
	go func() { c.served <- c.server.Serve(listener) }()
	return c, nil
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.requests.Add(1)
	if r.Method == http.MethodPut {
		c.puts.Add(1)
	}
	c.handler.ServeHTTP(w, r)
}

func (c *counted) reset() {
	c.requests.Store(0)
	c.puts.Store(0)
}

// discard stops the registry and removes what it kept.
func (c *counted) discard() error {
	err := c.server.Close()
	if served := <-c.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, c.handler.Close(), os.RemoveAll(c.root))
}
