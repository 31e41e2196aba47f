package harness

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// Counted is a proxy before a registry that records requests and can inject faults.
type Counted struct {
	*registrytest.Proxy
	// Addr is host:port, plain HTTP.
	Addr string

	server *http.Server
}

// Count puts a recording proxy before the registry, on an address of its own.
func (r *Registry) Count(ctx context.Context) (*Counted, error) {
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Addr})
	c := &Counted{Proxy: registrytest.NewProxy(behind)}
	var err error
	c.server, c.Addr, err = serve(ctx, c.Proxy)
	return c, err
}

// Close ends the proxy.
func (c *Counted) Close() error { return c.server.Close() }

// Writes counts what a client writes to a cluster, and can slow it down.
type Writes struct {
	// Kubeconfig leads to the cluster by way of the count.
	Kubeconfig string

	count  atomic.Int64
	delay  atomic.Int64
	server *http.Server
}

// Delay holds every request up from now on.
func (w *Writes) Delay(d time.Duration) { w.delay.Store(int64(d)) }

// CountWrites puts a proxy before the API server that counts writing requests.
func (c *Cluster) CountWrites(ctx context.Context) (*Writes, error) {
	transport, err := rest.TransportFor(c.Config())
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(c.URL())
	if err != nil {
		return nil, err
	}
	behind := httputil.NewSingleHostReverseProxy(target)
	behind.Transport = transport
	behind.FlushInterval = -1                    // watches
	behind.ErrorLog = log.New(io.Discard, "", 0) // servers go away on purpose
	w := &Writes{Kubeconfig: filepath.Join(filepath.Dir(c.Kubeconfig), "counted.kubeconfig")}
	var addr string
	w.server, addr, err = serve(ctx, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.count.Add(1)
		}
		if delay := time.Duration(w.delay.Load()); delay > 0 {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
			}
		}
		behind.ServeHTTP(rw, r)
	}))
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[c.Name] = &clientcmdapi.Cluster{Server: "http://" + addr}
	config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name}
	config.CurrentContext = c.Name
	return w, clientcmd.WriteToFile(*config, w.Kubeconfig)
}

// Count returns how many writing requests there were.
func (w *Writes) Count() int64 { return w.count.Load() }

// Close ends the proxy.
func (w *Writes) Close() error { return w.server.Close() }

// serve serves on a free loopback port.
func serve(ctx context.Context, handler http.Handler) (*http.Server, string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: Patience}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return server, listener.Addr().String(), nil
}
