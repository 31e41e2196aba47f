package agentcli

import (
	"bytes"
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

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/webhook"
)

const (
	// readTimeout and idleTimeout stop clients that hold connections open.
	readTimeout = 10 * time.Second
	idleTimeout = time.Minute
	// farewell is how long open requests may take at the end.
	farewell = 3 * time.Second
)

// endpoints are the HTTP servers that run beside the agent.
type endpoints struct {
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
	server := &http.Server{
		Handler: handler, ReadTimeout: readTimeout, WriteTimeout: 3 * readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 16 << 10,
	}
	e.servers = append(e.servers, server)
	e.running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
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
