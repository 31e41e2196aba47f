// Package registry is the embedded OCI registry: for trying out, for tests, and for a site that has none of its own.
//
// It is distribution/v3, run as a library on a folder: persistent, with deletion, notifications, TLS, users of its own
// or tokens of others, and, where a link exists, what an upstream registry has. It takes a blob with one request, and an
// index of which not every platform is mirrored. There is no referrers API; clients fall back to the referrers tag by
// themselves. What nothing refers to is collected while it runs. [Serve] runs one until its context ends; [Start] runs
// one that the caller stops; [New] is the bare HTTP handler; [Collect] cleans a folder that none serves.
package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // registers basic authentication
	_ "github.com/distribution/distribution/v3/registry/auth/token"    // registers tokens
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers folders
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // registers memory
)

// Options of a registry. The zero value keeps everything in memory and listens on a free loopback port.
type Options struct {
	// Root is the folder that keeps everything; memory when empty.
	Root string
	// Addr is where Start and Serve listen; 127.0.0.1 and a free port when empty.
	Addr string
	// CertFile and KeyFile make it speak TLS; both or neither.
	CertFile, KeyFile string
	// Htpasswd is a file of users with bcrypt hashes, as htpasswd -B writes it. Everybody may do everything when empty.
	Htpasswd string
	// Token lets those in whom a token service vouches for; it excludes Htpasswd.
	Token *Token
	// Upstream is asked for what isn't here, which is then kept. Nothing can be pushed.
	Upstream *Upstream
	// CollectEvery is how often what nothing refers to is deleted; never when zero. It needs Root.
	CollectEvery time.Duration
	// CollectGrace is how long it is left alone after it came, or was asked for; DefaultGrace when zero.
	CollectGrace time.Duration
	// ReadOnly refuses everything that writes, for a folder that is filled by other means.
	ReadOnly bool
	// Notify are told about every manifest that is pushed, tagged or deleted.
	Notify []Endpoint
	// Stall is how long a client may keep a request waiting for its next byte; DefaultStall when zero.
	Stall time.Duration
	// Log gets one debug record a request and a warning for what the registry did wrong; nothing when nil.
	Log *slog.Logger
}

// Token is a token service as registries know it.
//
// See https://distribution.github.io/distribution/spec/auth/token/
type Token struct {
	// Realm is the service's URL; Service and Issuer are what its tokens must say.
	Realm, Service, Issuer string
	// CertFile holds the certificates, PEM, whose keys sign tokens; JWKSFile the keys themselves. One of them is needed.
	CertFile, JWKSFile string
}

// Upstream is a registry behind this one.
type Upstream struct {
	URL                string
	Username, Password string
	// TTL is how long what was pulled is kept; for ever when zero.
	TTL time.Duration
}

// Endpoint receives notifications as POST requests with distribution's event envelope
// (application/vnd.docker.distribution.events.v1+json), again and again until it answers with 2xx.
type Endpoint struct {
	URL string
	// Headers are sent along, such as Authorization.
	Headers http.Header
}

const (
	// drainTimeout is how long running requests may take when the registry stops.
	drainTimeout = 10 * time.Second
	// catalogPage is how many repositories are listed at once: none, if it weren't set.
	catalogPage = 1000
	// A receiver that is away is asked again every second from the first failure on: a notification is a hint whose
	// worth fades.
	notifyTimeout = 5 * time.Second
	notifyBackoff = time.Second
)

// Handler answers the registry's HTTP API.
type Handler struct {
	http.Handler
	app     *handlers.App
	staging *staging // nil in memory
	stop    func()
}

// New returns the registry as an HTTP handler; Addr and the certificate are not used. Close ends its background work.
func New(opts Options) (handler *Handler, err error) {
	config, err := opts.configuration()
	if err != nil {
		return nil, err
	}
	quietLogrus()
	var staging *staging
	if opts.Root != "" {
		if staging, err = stage(config, opts.grace()); err != nil {
			return nil, err
		}
	}
	defer func() {
		// distribution panics where others return an error.
		if cause := recover(); cause != nil {
			handler, err = nil, fmt.Errorf("open registry on %q: %v", opts.Root, cause)
		}
	}()
	app := handlers.NewApp(context.Background(), config)
	h := &Handler{Handler: logged(opts.Log, whole{app}), app: app, staging: staging, stop: func() {}}
	if opts.CollectEvery > 0 {
		guard := newGuard(h.Handler, opts.grace())
		h.Handler, h.stop = guard, startCollecting(opts, guard)
	}
	return h, nil
}

// Close ends background work. What was stored stays.
func (h *Handler) Close() error {
	h.stop()
	err := h.app.Shutdown()
	if h.staging != nil {
		err = errors.Join(err, h.staging.close())
	}
	return err
}

func (o Options) configuration() (*configuration.Configuration, error) {
	config := &configuration.Configuration{
		Storage:    configuration.Storage{"delete": configuration.Parameters{"enabled": true}},
		Middleware: map[string][]configuration.Middleware{},
	}
	if o.Root == "" {
		config.Storage["inmemory"] = configuration.Parameters{}
	} else {
		root, err := filepath.Abs(o.Root)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, fmt.Errorf("make the registry's folder: %w", err)
		}
		config.Storage["filesystem"] = configuration.Parameters{"rootdirectory": root}
	}
	if o.CollectEvery > 0 && o.Root == "" {
		return nil, errors.New("collecting needs a folder: a registry in memory ends with its process")
	}
	if err := o.access(config); err != nil {
		return nil, err
	}
	if o.ReadOnly {
		// It must be a map of this type: distribution reads no other.
		config.Storage["maintenance"] = configuration.Parameters{"readonly": map[any]any{"enabled": true}}
	}
	if o.Upstream == nil {
		serveSmallBlobs(config)
	} else {
		config.Proxy = configuration.Proxy{
			RemoteURL: o.Upstream.URL, Username: o.Upstream.Username, Password: o.Upstream.Password, TTL: &o.Upstream.TTL,
		}
	}
	for i, endpoint := range o.Notify {
		config.Notifications.Endpoints = append(config.Notifications.Endpoints, configuration.Endpoint{
			Name: fmt.Sprintf("endpoint-%d", i), URL: endpoint.URL, Headers: endpoint.Headers,
			Timeout: notifyTimeout, Threshold: 1, Backoff: notifyBackoff,
			// Pulls include every poll of every agent; blobs mean nothing before their manifest.
			Ignore: configuration.Ignore{
				Actions: []string{"pull", "mount"}, MediaTypes: []string{"application/octet-stream"},
			},
		})
	}
	secret, err := o.secret()
	if err != nil {
		return nil, err
	}
	config.HTTP.Secret = secret
	// An index whose platforms aren't all mirrored keeps its digest, and its signatures.
	config.Validation.Manifests.Indexes.Platforms = "none"
	config.Catalog.MaxEntries = catalogPage
	config.HTTP.RelativeURLs = true // whatever name and scheme a client used, through a proxy too
	return config, nil
}

// Server is a registry that listens.
type Server struct {
	// Addr is host:port.
	Addr string

	handler *Handler
	server  *http.Server
	served  chan error
	silent  silentConns
}

// silentConns are connections on which nothing was asked yet. Clients open more than they need, and Shutdown would wait
// five seconds for each to say something.
type silentConns struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func (s *silentConns) track(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.conns[conn] = true
	} else {
		delete(s.conns, conn)
	}
}

func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close() // the client may have done so
	}
}

// Start listens and serves until Close.
func Start(opts Options) (*Server, error) {
	if (opts.CertFile == "") != (opts.KeyFile == "") {
		return nil, errors.New("a certificate needs its key, and a key its certificate: give both files or none")
	}
	handler, err := New(opts)
	if err != nil {
		return nil, err
	}
	listener, err := listen(opts)
	if err != nil {
		return nil, errors.Join(err, handler.Close())
	}
	stall := cmp.Or(opts.Stall, DefaultStall)
	s := &Server{
		Addr:    listener.Addr().String(),
		handler: handler,
		server: &http.Server{
			Handler: timely(stall, handler), ReadHeaderTimeout: stall, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			ErrorLog: slog.NewLogLogger(logger(opts.Log).Handler(), slog.LevelDebug),
		},
		served: make(chan error, 1),
		silent: silentConns{conns: map[net.Conn]bool{}},
	}
	s.server.ConnState = s.silent.track
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

func listen(opts Options) (net.Listener, error) {
	addr := opts.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var certificate tls.Certificate
	if opts.CertFile != "" {
		var err error
		if certificate, err = tls.LoadX509KeyPair(opts.CertFile, opts.KeyFile); err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil || opts.CertFile == "" {
		return listener, err
	}
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}), nil
}

// Close lets running requests finish, for a bounded time, and returns why serving ended early, if it did.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	s.silent.close()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were cut off: %w", err), s.server.Close())
	}
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, s.handler.Close())
}

// Serve runs a registry until the context ends. It calls ready once, with the address that it listens on.
func Serve(ctx context.Context, opts Options, ready func(addr string)) error {
	s, err := Start(opts)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(s.Addr)
	}
	select {
	case <-ctx.Done():
	case err := <-s.served:
		s.served <- err // Close reads it
	}
	return s.Close()
}
