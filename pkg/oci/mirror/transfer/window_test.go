package transfer

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// clock stands still but for who moves it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// chunks notes when each piece of an upload comes; each takes a while by the clock.
type chunks struct {
	next  http.Handler
	clock *clock
	each  time.Duration

	mu   sync.Mutex
	came []string
	size []int64
}

func (c *chunks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPatch {
		c.mu.Lock()
		c.came = append(c.came, c.clock.now().Format("Mon 15:04"))
		c.size = append(c.size, r.ContentLength)
		c.mu.Unlock()
		c.clock.move(c.each)
	}
	c.next.ServeHTTP(w, r)
}

// uploaded sends a blob of four chunks to a registry, each of which takes 25 minutes by the clock.
func uploaded(t *testing.T, window string, answered func(http.Handler) http.Handler) (came, waits []string, sizes []int64) {
	t.Helper()
	handler, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	clock := &clock{at: time.Date(2026, 11, 2, 20, 0, 0, 0, time.Local)} // a Monday
	seen := &chunks{next: answered(handler), clock: clock, each: 25 * time.Minute}
	to, err := registrytest.Wrap(t, seen).Registry(t).Repository("a")
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Chunk: 64 << 10, OnWait: func(until time.Time) { waits = append(waits, until.Format("Mon 15:04")) }}
	if opts.Window, err = ParseWindow(window); err != nil {
		t.Fatal(err)
	}
	engine := New(opts)
	engine.now = clock.now
	engine.wait = func(_ context.Context, d time.Duration) error {
		clock.move(d)
		return nil
	}
	blob := oci.Blob{MediaType: "application/octet-stream", Data: make([]byte, 4*opts.Chunk)}
	if _, err := engine.Blob(t.Context(), memory(t, blob), to, blob.Descriptor()); err != nil {
		t.Fatal(err)
	}
	if exists, err := to.Exists(t.Context(), blob.Descriptor()); err != nil || !exists {
		t.Errorf("at the receiver: %v (%v), want it there", exists, err)
	}
	return seen.came, waits, seen.size
}

func plainly(h http.Handler) http.Handler { return h }

// An upload that is under way when the window closes waits before its next chunk, and goes on in the same upload when it
// opens again.
func TestClosingWindowStopsBetweenChunks(t *testing.T) {
	came, waits, _ := uploaded(t, "22:00-22:45", plainly)
	if want := []string{"Mon 22:00", "Mon 22:25", "Tue 22:00", "Tue 22:25"}; !slices.Equal(came, want) {
		t.Errorf("chunks came at %q, want %q", came, want)
	}
	if want := []string{"Mon 22:00", "Tue 22:00"}; !slices.Equal(waits, want) {
		t.Errorf("it waited until %q, want %q", waits, want)
	}
}

// A registry that takes no chunk below a size gets chunks of that size.
func TestChunksAreAsLargeAsTheRegistryAsks(t *testing.T) {
	_, _, sizes := uploaded(t, "", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("OCI-Chunk-Min-Length", "100000")
			}
			next.ServeHTTP(w, r)
		})
	})
	if want := []int64{100_000, 100_000, 4*(64<<10) - 200_000}; !slices.Equal(sizes, want) {
		t.Errorf("chunks of %d bytes, want %d", sizes, want)
	}
}
