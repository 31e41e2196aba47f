package agentcli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/webhook"
)

const (
	// readTimeout and idleTimeout stop clients that hold connections open.
	readTimeout = 10 * time.Second
	idleTimeout = time.Minute
	// maxHeader stops headers that fill the memory.
	maxHeader = 16 << 10
	// maxConnections stops whoever opens connections without end: each has buffers, and more wait to be taken.
	maxConnections = 256
	// maxScrapes stops metrics from being gathered for many at once.
	maxScrapes = 4
	// farewell is how long open requests may take at the end.
	farewell = 3 * time.Second
)

// endpoints are the HTTP servers that run beside the agent.
type endpoints struct {
	timeout time.Duration // readTimeout when zero
	servers []*http.Server
	running sync.WaitGroup
}

// serve opens the addresses that the configuration names. fail is told when a server ends before its time.
func serve(setup *setup, fail context.CancelCauseFunc) (*endpoints, error) {
	e := &endpoints{}
	if err := serveAdmin(e, setup, fail); err != nil {
		// Some filesystems hold no sockets. The cluster is more important than commands.
		setup.log.Warn("pinnace-agent why, status, suspend, resume and sync will not reach this agent", "error", err)
	}
	if setup.spec.Listen != "" {
		if err := e.listen(setup.spec.Listen, "spec.listen", operations(setup), fail); err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	if setup.spec.Webhook != nil {
		handler, err := notifications(setup)
		if err == nil {
			err = e.listen(setup.spec.Webhook.Listen, "spec.webhook.listen", handler, fail)
		}
		if err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	return e, nil
}

func (e *endpoints) listen(address, field string, handler http.Handler, fail context.CancelCauseFunc) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return usagef("%s: %w; choose another address", field, err)
	}
	e.serve(listener, address, handler, fail)
	return nil
}

func (e *endpoints) serve(listener net.Listener, address string, handler http.Handler, fail context.CancelCauseFunc) {
	timeout := cmp.Or(e.timeout, readTimeout)
	server := &http.Server{
		Handler: handler, ReadTimeout: timeout, WriteTimeout: 3 * timeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
	e.servers = append(e.servers, server)
	e.running.Go(func() {
		if err := server.Serve(netutil.LimitListener(listener, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("serve %s: %w", address, err))
		}
	})
}

func (e *endpoints) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	var problems []error
	for _, server := range e.servers {
		if err := server.Shutdown(ctx); err != nil {
			problems = append(problems, server.Close())
		}
	}
	e.running.Wait()
	return errors.Join(problems...)
}

// operations answers /healthz, /readyz and /metrics.
func operations(setup *setup) http.Handler {
	registry := setup.metrics.Registry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !setup.agent.Alive() {
			http.Error(w, "the agent's loop is stuck", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if setup.agent.Standby() {
			_, _ = w.Write([]byte("standing by\n"))
			return
		}
		if !setup.agent.Ready() {
			http.Error(w, "no target is in force yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	return mux
}

// notifications answers registries.
func notifications(setup *setup) (http.Handler, error) {
	var secret []byte
	if file := setup.spec.Webhook.SecretFile; file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("read the webhook's secret: %w", err)
		}
		if secret = bytes.TrimSpace(data); len(secret) == 0 {
			return nil, usagef("the webhook's secret %s is empty", file)
		}
	}
	return webhook.New(webhook.Handler{
		Repository: v1alpha1.TargetRepository(setup.spec.Cluster), Tag: v1alpha1.TagCurrent, Secret: secret,
		Hint: setup.agent.Hint, Count: setup.metrics.Webhook,
	}), nil
}
