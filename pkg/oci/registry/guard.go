package registry

import (
	"context"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// guard keeps a collection and the registry's clients out of each other's way: manifests aren't written while one looks
// at what refers to what, and a blob that a client asked for, to see whether it has to send it, is left alone.
type guard struct {
	next  http.Handler
	grace time.Duration

	writes sync.RWMutex

	mu    sync.Mutex
	asked map[string]time.Time // by digest
}

// maxAsked stops clients that fill the memory by asking for ever new blobs; a collection is put off when more was asked for.
const maxAsked = 200_000

func newGuard(next http.Handler, grace time.Duration) *guard {
	return &guard{next: next, grace: grace, asked: map[string]time.Time{}}
}

var blobPath = regexp.MustCompile(`^/v2/.+/blobs/(sha256:[0-9a-f]{64})$`)

var manifestPath = regexp.MustCompile(`^/v2/.+/manifests/[^/]+$`)

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodHead, http.MethodGet:
		if m := blobPath.FindStringSubmatch(r.URL.Path); m != nil {
			g.note(m[1])
		}
	case http.MethodPost:
		if mounted := r.URL.Query().Get("mount"); mounted != "" {
			g.note(mounted)
		}
	case http.MethodPut, http.MethodDelete:
		if manifestPath.MatchString(r.URL.Path) {
			g.writes.RLock()
			defer g.writes.RUnlock()
		}
	}
	g.next.ServeHTTP(w, r)
}

func (g *guard) note(blob string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked[blob] = time.Now()
}

// collect runs a collection while no manifest is written.
func (g *guard) collect(ctx context.Context, opts Options) (Collected, bool, error) {
	now := time.Now()
	g.mu.Lock()
	for blob, at := range g.asked {
		if now.Sub(at) > g.grace {
			delete(g.asked, blob)
		}
	}
	busy := len(g.asked) > maxAsked
	g.mu.Unlock()
	if busy {
		return Collected{}, false, nil
	}
	g.writes.Lock()
	defer g.writes.Unlock()
	found, err := collect(ctx, opts.Root, CollectOptions{Grace: opts.grace(), Now: now}, func(blob string) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		_, ok := g.asked[blob]
		return ok
	})
	return found, err == nil, err
}

// startCollecting collects now and then until it is stopped.
func startCollecting(opts Options, g *guard) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	log := logger(opts.Log)
	go func() {
		defer close(done)
		ticker := time.NewTicker(opts.CollectEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			found, did, err := g.collect(ctx, opts)
			switch {
			case err != nil && ctx.Err() == nil:
				log.Warn("collect what nothing refers to", "error", err)
			case did && found.Blobs+len(found.Manifests) > 0:
				log.Info("collected what nothing refers to", "manifests", len(found.Manifests), "blobs", found.Blobs, "bytes", found.Bytes)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
