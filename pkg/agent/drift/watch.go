package drift

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Event says that something about a bundle's object needs a look.
type Event struct {
	Bundle string
	Ref    apply.Ref
	// Drifted: our fields were changed, the object is gone, or it was never compared: see Check.
	Drifted bool
	// Health changed: ask apply.Applier.Health, which costs nothing.
	Health bool
}

// Options of a Watcher; the zero value is good.
type Options struct {
	// Debounce is how long events of an object are gathered; 100 ms when zero.
	Debounce time.Duration
	// Sweep is how often all metadata is read to catch what a broken watch missed, jittered by a tenth; 10 min when
	// zero.
	Sweep time.Duration
	Log   *slog.Logger
}

// Followed is a bundle as far as watching it goes.
type Followed struct {
	Inventory apply.Inventory
	Checks    []v1alpha1.HealthCheck
}

// Watcher watches the kinds that bundles applied.
type Watcher struct {
	applier  *apply.Applier
	options  Options
	handle   func(Event)
	metadata metadata.Interface
	dynamic  dynamic.Interface
	wake     chan struct{}

	mu      sync.Mutex
	wanted  map[schema.GroupVersionKind]bool // value: whole objects, not only metadata
	pending map[apply.ID]Event
}

// New returns a watcher that calls handle, one event at a time, while Run runs. It sends nothing.
func New(applier *apply.Applier, handle func(Event), options Options) (*Watcher, error) {
	if options.Debounce <= 0 {
		options.Debounce = 100 * time.Millisecond
	}
	if options.Sweep <= 0 {
		options.Sweep = 10 * time.Minute
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	config := applier.Config()
	metadataClient, err := metadata.NewForConfigAndClient(config, applier.HTTPClient())
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfigAndClient(config, applier.HTTPClient())
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	return &Watcher{
		applier: applier, options: options, handle: handle, metadata: metadataClient, dynamic: dynamicClient,
		wake: make(chan struct{}, 1), wanted: map[schema.GroupVersionKind]bool{}, pending: map[apply.ID]Event{},
	}, nil
}

// Follow says what to watch from now on: the kinds in the bundles' inventories. Objects whose health shows in their
// status are watched whole, so that health costs no requests, and looked at without being kept; of all others only
// metadata is asked for.
func (w *Watcher) Follow(bundles map[string]Followed) {
	wanted := map[schema.GroupVersionKind]bool{}
	for _, bundle := range bundles {
		for _, ref := range bundle.Inventory {
			gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
			wanted[gvk] = wanted[gvk] || !apply.Plain(gvk.GroupKind())
		}
		for _, check := range bundle.Checks {
			gvk := schema.FromAPIVersionAndKind(check.APIVersion, check.Kind)
			if _, ok := wanted[gvk]; ok {
				wanted[gvk] = true
			}
		}
	}
	w.mu.Lock()
	w.wanted = wanted
	w.mu.Unlock()
	w.poke()
}

func (w *Watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watching is one kind's watch.
type watching struct {
	mapping apply.Mapping
	whole   bool
	reached func() string // the resource version told last
	stop    context.CancelFunc
	done    chan struct{}
}

// Run watches until ctx is done, and has stopped everything when it returns.
func (w *Watcher) Run(ctx context.Context) {
	running := map[schema.GroupVersionKind]watching{}
	defer func() {
		for gvk := range running {
			w.end(running, gvk)
		}
	}()
	sweep := time.NewTimer(jittered(w.options.Sweep))
	defer sweep.Stop()
	retry := time.NewTimer(0) // kinds that could not be watched yet
	defer retry.Stop()
	var flush <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.adjust(ctx, running, retry)
			if flush == nil && w.hasPending() {
				flush = time.After(w.options.Debounce)
			}
		case <-retry.C:
			w.adjust(ctx, running, retry)
		case <-flush:
			flush = nil
			w.flush(ctx)
		case <-sweep.C:
			w.sweep(ctx, running)
			w.adjust(ctx, running, retry)
			sweep.Reset(jittered(w.options.Sweep))
		}
	}
}

func jittered(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1)) //nolint:gosec // no secret: spreads load
}

// retryKinds is when a kind that is not served, or could not be found, is tried again.
const retryKinds = 15 * time.Second

// adjust starts and stops watches until those that run are those that are wanted.
func (w *Watcher) adjust(ctx context.Context, running map[schema.GroupVersionKind]watching, retry *time.Timer) {
	w.mu.Lock()
	wanted := w.wanted
	w.mu.Unlock()
	for gvk, one := range running {
		if whole, ok := wanted[gvk]; !ok || whole != one.whole {
			w.end(running, gvk)
		}
	}
	for gvk, whole := range wanted {
		if _, ok := running[gvk]; ok {
			continue
		}
		apiVersion, kind := gvk.ToAPIVersionAndKind()
		mapping, err := w.applier.Kinds().Mapping(ctx, apply.Ref{APIVersion: apiVersion, Kind: kind})
		if err != nil {
			w.options.Log.Debug("cannot watch yet", "kind", gvk.String(), "error", err)
			retry.Reset(retryKinds)
			continue
		}
		watch, stop := context.WithCancel(ctx)
		reflector := w.reflector(mapping, whole)
		one := watching{
			mapping: mapping, whole: whole, reached: reflector.LastSyncResourceVersion, stop: stop, done: make(chan struct{}),
		}
		running[gvk] = one
		go func() {
			defer close(one.done)
			reflector.RunWithContext(watch)
		}()
	}
}

func (w *Watcher) end(running map[schema.GroupVersionKind]watching, gvk schema.GroupVersionKind) {
	one := running[gvk]
	one.stop()
	<-one.done
	delete(running, gvk)
	w.applier.Watched(gvk.GroupKind(), false)
}

func (w *Watcher) hasPending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending) > 0
}

// note gathers an event.
func (w *Watcher) note(seen apply.Seen) {
	if seen.Bundle == "" || !seen.Drifted && !seen.Health {
		return
	}
	w.mu.Lock()
	event := w.pending[seen.Ref.ID()]
	event.Bundle, event.Ref = seen.Bundle, seen.Ref
	event.Drifted, event.Health = event.Drifted || seen.Drifted, event.Health || seen.Health
	w.pending[seen.Ref.ID()] = event
	w.mu.Unlock()
	w.poke()
}

// flush hands the gathered events over. An object that by now is as we wrote it was our own write.
func (w *Watcher) flush(ctx context.Context) {
	w.mu.Lock()
	pending := w.pending
	w.pending = map[apply.ID]Event{}
	w.mu.Unlock()
	for _, event := range pending {
		event.Drifted = event.Drifted && w.applier.Drifted(event.Ref)
		if ctx.Err() == nil && (event.Drifted || event.Health) {
			w.handle(event)
		}
	}
}

// sweep reads the metadata of all that is watched. A watch of data that a restored backup replaced is ended, to be begun
// anew.
func (w *Watcher) sweep(ctx context.Context, running map[schema.GroupVersionKind]watching) {
	for gvk, one := range running {
		survey, err := w.applier.Survey(ctx, one.mapping, one.reached())
		if err != nil {
			w.options.Log.Warn("sweep failed", "kind", gvk.String(), "error", err)
			continue
		}
		if survey.Rewound {
			w.options.Log.Warn("the cluster's data are older than before, as after the restore of a backup: all is compared anew", "kind", gvk.String())
			w.end(running, gvk)
		}
		for _, seen := range survey.Drifted {
			w.note(seen)
		}
	}
}
