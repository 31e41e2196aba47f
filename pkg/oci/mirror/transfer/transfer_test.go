package transfer_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

const chunk = 64 << 10

// pair is a sender with a blob of many chunks, and a receiver that keeps what it got of a cut chunk.
type pair struct {
	sender, receiver *registrytest.Server
	from, to         oci.Repository
	blob             oci.Blob
	cuts             *cutter
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{sender: registrytest.New(t), blob: oci.Blob{MediaType: "application/octet-stream", Data: mirrortest.Random("blob", 20*chunk+123)}}
	handler, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	p.cuts = &cutter{next: handler}
	p.receiver = registrytest.Wrap(t, p.cuts)
	p.from, p.to = p.repository(t, p.sender, "a"), p.repository(t, p.receiver, "b")
	if err := p.from.Push(t.Context(), p.blob.Descriptor(), p.blob.Data); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) repository(t *testing.T, server *registrytest.Server, name string) oci.Repository {
	t.Helper()
	repo, err := server.Registry(t).Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func (p *pair) check(t *testing.T) {
	t.Helper()
	got, err := oci.ReadAll(t.Context(), p.to, p.blob.Descriptor(), 1<<30)
	if err != nil || !bytes.Equal(got, p.blob.Data) {
		t.Errorf("at the receiver: %d bytes (%v), want %d", len(got), err, len(p.blob.Data))
	}
}

// cutter breaks the connection after so many bytes of a PATCH, as a link does.
type cutter struct {
	next http.Handler

	mu    sync.Mutex
	after []int // bytes until each cut
	seen  int
}

// set says after how many bytes each cut comes.
func (c *cutter) set(after ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after, c.seen = after, 0
}

// left is how many cuts are still to come.
func (c *cutter) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.after)
}

// room is how many bytes may pass until the next cut.
func (c *cutter) room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.after) == 0 {
		return math.MaxInt
	}
	return max(c.after[0]-c.seen, 1)
}

// passed counts bytes, and says whether to cut now.
func (c *cutter) passed(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen += n; len(c.after) == 0 || c.seen < c.after[0] {
		return false
	}
	c.after, c.seen = c.after[1:], 0
	return true
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPatch && c.left() > 0 {
		r.Body = &cutBody{ReadCloser: r.Body, cutter: c}
	}
	c.next.ServeHTTP(w, r)
}

type cutBody struct {
	io.ReadCloser
	cutter *cutter
}

func (b *cutBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.cutter.room())])
	if b.cutter.passed(n) {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func options() transfer.Options {
	return transfer.Options{Chunk: chunk, Backoff: time.Millisecond}
}

// At a hundred random points the link to the receiver breaks; each time at most one chunk is sent again.
func TestUploadGoesOnWhereItWasCut(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for stops := 0; stops < 100; {
		p := newPair(t)
		n := 1 + random.IntN(16)
		after := make([]int, n)
		for i := range after {
			after[i] = 1 + random.IntN(2*chunk)
		}
		p.cuts.set(after...)
		result, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, p.blob.Descriptor())
		if err != nil {
			t.Fatal(err)
		}
		made := n - p.cuts.left()
		if result.Resent > int64(made*chunk) {
			t.Errorf("%d cuts, %d bytes sent again, want at most %d", made, result.Resent, made*chunk)
		}
		p.check(t)
		stops += max(made, 1)
	}
}

func TestDownloadGoesOnWhereItWasCut(t *testing.T) {
	p := newPair(t)
	for range 8 {
		p.sender.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindBlob}, Cut: 3 * chunk, Times: 1})
	}
	p.sender.Reset()
	result, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, p.blob.Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	if result.Cuts == 0 || result.Resent != 0 {
		t.Errorf("got %+v, want cuts and nothing sent again", result)
	}
	p.check(t)
}

// A process that was killed leaves its journal; the next goes on at the registry's offset.
func TestJournalOutlivesTheProcess(t *testing.T) {
	p := newPair(t)
	file := filepath.Join(t.TempDir(), "journal")
	total := int64(0)
	for try := range 10 {
		journal, err := transfer.OpenJournal(file)
		if err != nil {
			t.Fatal(err)
		}
		if try < 9 {
			p.cuts.set(2*chunk + 7)
		}
		opts := options()
		opts.Journal, opts.Retries = journal, 1
		p.receiver.Heal()
		if try < 9 {
			// After the cut the receiver is away, as if this process had died.
			p.receiver.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindUpload}, Drop: true})
			if try > 0 {
				p.receiver.Heal()
				p.receiver.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindUpload}, Skip: 1, Drop: true})
			}
		}
		result, err := transfer.New(opts).Blob(t.Context(), p.from, p.to, p.blob.Descriptor())
		total += result.Sent
		if closeErr := journal.Close(); closeErr != nil {
			t.Fatal(closeErr)
		}
		if err == nil {
			break
		}
	}
	p.check(t)
	if most := p.blob.Descriptor().Size + 10*chunk; total > most {
		t.Errorf("%d bytes were sent, want at most %d", total, most)
	}
	if total < p.blob.Descriptor().Size {
		t.Errorf("%d bytes were sent, fewer than the blob has", total)
	}
}

// A receiver that has another address each time, such as a registry on a folder, is known by a name.
func TestJournalKnowsAReceiverByItsName(t *testing.T) {
	p := newPair(t)
	file := filepath.Join(t.TempDir(), "journal")
	resumed := int64(0)
	send := func(server *registrytest.Server) (transfer.Result, error) {
		journal, err := transfer.OpenJournal(file)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = journal.Close() }()
		journal.Rename(server.Addr, "folder")
		opts := options()
		opts.Journal, opts.Retries = journal, 1
		opts.OnResumed = func(n int64) { resumed += n }
		to := p.repository(t, server, "b")
		result, err := transfer.New(opts).Blob(t.Context(), p.from, to, p.blob.Descriptor())
		if err == nil {
			journal.SetDone(to.String(), p.blob.Descriptor().Digest)
		}
		return result, err
	}
	p.cuts.set(5*chunk + 7)
	p.receiver.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindUpload}, Drop: true})
	if _, err := send(p.receiver); err == nil {
		t.Fatal("it was not cut")
	}
	elsewhere := registrytest.Wrap(t, p.cuts)
	result, err := send(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if most := p.blob.Descriptor().Size - 5*chunk; result.Sent > most {
		t.Errorf("%d bytes were sent, want at most %d", result.Sent, most)
	}
	if resumed < 5*chunk || resumed+result.Sent < p.blob.Descriptor().Size {
		t.Errorf("%d bytes were there and %d sent, of %d", resumed, result.Sent, p.blob.Descriptor().Size)
	}
	p.check(t)
	journal, err := transfer.OpenJournal(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = journal.Close() }()
	third := registrytest.Wrap(t, p.cuts)
	journal.Rename(third.Addr, "folder")
	if !journal.Done(p.repository(t, third, "b").String(), p.blob.Descriptor().Digest) {
		t.Error("the journal doesn't know what arrived under another address")
	}
}

func TestWrongBytesAreNeverFinished(t *testing.T) {
	for _, size := range []int{100, 3 * chunk} {
		p := newPair(t)
		p.blob.Data = mirrortest.Random("other", size)
		if err := p.from.Push(t.Context(), p.blob.Descriptor(), p.blob.Data); err != nil {
			t.Fatal(err)
		}
		p.sender.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindBlob}, Corrupt: true})
		_, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, p.blob.Descriptor())
		if !errors.Is(err, oci.ErrDamaged) {
			t.Errorf("%d bytes: got %v, want %v", size, err, oci.ErrDamaged)
		}
		if exists, err := p.to.Exists(t.Context(), p.blob.Descriptor()); exists || err != nil {
			t.Errorf("%d bytes: they are at the receiver (%v)", size, err)
		}
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	p := newPair(t)
	p.receiver.Inject(registrytest.Fault{
		Match: registrytest.Match{Method: http.MethodPatch}, Skip: 2, Times: 1, Status: http.StatusServiceUnavailable, RetryAfter: time.Second,
	})
	started := time.Now()
	result, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, p.blob.Descriptor())
	if err != nil || result.Cuts == 0 {
		t.Fatalf("got %+v, %v", result, err)
	}
	if took := time.Since(started); took < time.Second {
		t.Errorf("it took %s, want the second that the registry asked for", took)
	}
	p.check(t)
}

func TestMount(t *testing.T) {
	p := newPair(t)
	if err := p.to.Push(t.Context(), p.blob.Descriptor(), p.blob.Data); err != nil {
		t.Fatal(err)
	}
	other := p.repository(t, p.receiver, "other")
	p.sender.Reset()
	result, err := transfer.New(options()).Blob(t.Context(), p.from, other, p.blob.Descriptor(), "fleet/absent", "fleet/b")
	if err != nil || result.Action != transfer.Mounted || result.Sent != 0 {
		t.Errorf("got %+v, %v, want it mounted", result, err)
	}
	if n := p.sender.Count(registrytest.Match{}); n != 0 {
		t.Errorf("%d requests to the sender, want none", n)
	}
}

func TestRate(t *testing.T) {
	p := newPair(t)
	opts := options()
	opts.Rate = 8 * chunk
	p.blob.Data = mirrortest.Random("slow", 4*chunk)
	if err := p.from.Push(t.Context(), p.blob.Descriptor(), p.blob.Data); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if _, err := transfer.New(opts).Blob(t.Context(), p.from, p.to, p.blob.Descriptor()); err != nil {
		t.Fatal(err)
	}
	// The first 64 KiB are free, the other three chunks take an eighth of a second each.
	if took := time.Since(started); took < 300*time.Millisecond {
		t.Errorf("it took %s, want more than 300ms", took)
	}
}

func TestEmptyBlob(t *testing.T) {
	p := newPair(t)
	empty := oci.Blob{MediaType: "text/plain"}
	if err := p.from.Push(t.Context(), empty.Descriptor(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, empty.Descriptor()); err != nil {
		t.Fatal(err)
	}
	if exists, err := p.to.Exists(t.Context(), empty.Descriptor()); !exists || err != nil {
		t.Errorf("exists: %v, %v", exists, err)
	}
}

func TestHostileDescriptors(t *testing.T) {
	p := newPair(t)
	for _, desc := range []ocispec.Descriptor{{Digest: "sha256:../../etc/passwd", Size: 1}, {Digest: p.blob.Descriptor().Digest, Size: -1}} {
		if _, err := transfer.New(options()).Blob(t.Context(), p.from, p.to, desc); !errors.Is(err, oci.ErrDamaged) {
			t.Errorf("%v: got %v, want %v", desc, err, oci.ErrDamaged)
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(text string) time.Time {
		day, err := time.ParseInLocation("2006-01-02 15:04", "2026-11-02 "+text, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return day
	}
	for _, test := range []struct {
		window, now string
		want        time.Duration
	}{
		{"", "12:00", 0},
		{"22:00-06:00", "23:00", 0},
		{"22:00-06:00", "05:59", 0},
		{"22:00-06:00", "06:00", 16 * time.Hour},
		{"22:00-06:00", "12:00", 10 * time.Hour},
		{"01:00-05:00", "00:30", 30 * time.Minute},
		{"01:00-05:00", "06:00", 19 * time.Hour},
	} {
		window, err := transfer.ParseWindow(test.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := window.Wait(at(test.now)); got != test.want {
			t.Errorf("%s at %s: got %s, want %s", window, test.now, got, test.want)
		}
	}
	for _, wrong := range []string{"22:00", "22:00-22:00", "25:00-06:00", "x-y", "22-6"} {
		if _, err := transfer.ParseWindow(wrong); err == nil {
			t.Errorf("%q was accepted", wrong)
		}
	}
}

// What is under way is told byte by byte, each once however often the link breaks: on a thin link a chunk takes minutes.
func TestBytesAreToldAsTheyAreSent(t *testing.T) {
	p := newPair(t)
	p.cuts.set(chunk/2, 3*chunk, chunk+7)
	var mu sync.Mutex
	told, most := int64(0), int64(0)
	opts := options()
	opts.OnBytes = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		told, most = told+n, max(most, n)
	}
	if _, err := transfer.New(opts).Blob(t.Context(), p.from, p.to, p.blob.Descriptor()); err != nil {
		t.Fatal(err)
	}
	if told != p.blob.Descriptor().Size || most >= chunk {
		t.Errorf("told of %d bytes, %d at once, want %d, less than %d at once", told, most, p.blob.Descriptor().Size, chunk)
	}
}
