package cli

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

const (
	// requestWeight is how many bytes a request counts for, once as it comes and once as it is answered.
	requestWeight = 1 << 10
	// plannedBelow is the size below which blobs are read to plan as well, each time anew.
	plannedBelow = 16 << 10
	// readAhead is what a client's reader may have taken in beyond what it was asked for.
	readAhead = 4 << 10
)

// stopper stands before a registry. After a number of bytes of the content that is written to it, or read from it, it
// holds the request that moves them: in the middle of what is sent, before it is acted upon, or before it is answered.
// Whoever sent it is then ended, and the request with it. It counts what is sent again.
type stopper struct {
	next http.Handler

	mu       sync.Mutex
	left     int64 // bytes until the next stop; none comes when zero
	held     chan string
	released chan struct{}
	running  sync.WaitGroup // what writes, or sends content

	uploads  map[string]int64 // how far each got, and how far each blob that was sent whole
	finished map[string]bool
	reads    map[string]int64
	again    int64
}

// newStopper starts the embedded registry on a folder behind a stopper.
func newStopper(t *testing.T) (*stopper, *registrytest.Server) {
	t.Helper()
	handler, err := registry.New(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = handler.Close() })
	s := &stopper{next: handler, uploads: map[string]int64{}, finished: map[string]bool{}, reads: map[string]int64{}}
	return s, registrytest.Wrap(t, s)
}

// arm sets the next stop; held gets where the client is, so that it can be ended.
func (s *stopper) arm(after int64) (held <-chan string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.held, s.released = after, make(chan string, 1), make(chan struct{})
	return s.held
}

// release ends what is held, and returns once nothing is under way.
func (s *stopper) release() {
	s.mu.Lock()
	s.left = 0
	close(s.released)
	s.mu.Unlock()
	s.running.Wait()
}

// room is how many bytes may pass until the next stop.
func (s *stopper) room(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return n
	}
	return int(min(int64(n), s.left))
}

// due counts bytes, and says whether the stop has come.
func (s *stopper) due(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	stop := s.left > 0 && s.left <= n
	s.left = max(0, s.left-n)
	return stop
}

// hold tells where the client is, and waits until it was ended.
func (s *stopper) hold(client string) {
	s.mu.Lock()
	held, released := s.held, s.released
	s.mu.Unlock()
	held <- client
	<-released
}

// resent is what was sent again since it was asked last.
func (s *stopper) resent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.again = 0 }()
	return s.again
}

// forget makes what comes from now on count as sent for the first time.
func (s *stopper) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again, s.reads, s.uploads = 0, map[string]int64{}, map[string]int64{}
}

// lost is the most that was sent in an upload that was never finished: it was sent again in another.
func (s *stopper) lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := int64(0)
	for upload, n := range s.uploads {
		if !s.finished[upload] {
			most = max(most, n)
		}
	}
	return most
}

// moved counts bytes of an upload or blob that came, or went, and says what of them did so before.
func (s *stopper) moved(highest map[string]int64, key string, from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again += max(0, min(highest[key], to)-from)
	highest[key] = max(highest[key], to)
}

func (s *stopper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost, r.Method == http.MethodPatch, r.Method == http.MethodPut:
		s.running.Add(1)
		defer s.running.Done()
		s.write(w, r)
	case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
		s.running.Add(1)
		defer s.running.Done()
		s.next.ServeHTTP(&stoppedWriter{ResponseWriter: w, stopper: s, client: r.RemoteAddr, blob: r.URL.Path, at: firstByte(r.Header.Get("Range"))}, r)
	default:
		s.next.ServeHTTP(w, r)
	}
}

// firstByte is where a range begins: "bytes=5-9" or "5-9".
func firstByte(ranges string) int64 {
	first, _, _ := strings.Cut(strings.TrimPrefix(ranges, "bytes="), "-")
	n, _ := strconv.ParseInt(first, 10, 64) // none is from the beginning
	return n
}

func (s *stopper) write(w http.ResponseWriter, r *http.Request) {
	if s.due(requestWeight) {
		s.hold(r.RemoteAddr)
		panic(http.ErrAbortHandler)
	}
	body := &stoppedBody{ReadCloser: r.Body, stopper: s, client: r.RemoteAddr, key: r.URL.Path, at: firstByte(r.Header.Get("Content-Range"))}
	blob := r.URL.Query().Get("digest")
	if blob != "" {
		s.mu.Lock()
		s.finished[r.URL.Path] = true
		s.mu.Unlock()
		body.key = blob // sent whole: again in another upload, when it was cut
	}
	s.mu.Lock()
	s.finished[body.key] = s.finished[body.key] || blob != "" || r.Method == http.MethodPut
	s.mu.Unlock()
	r.Body = body
	answer := httptest.NewRecorder()
	s.next.ServeHTTP(answer, r)
	if !body.stopped && s.due(requestWeight) {
		s.hold(r.RemoteAddr)
		body.stopped = true
	}
	if body.stopped {
		panic(http.ErrAbortHandler)
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // the client may be gone
}

// stoppedBody is what a client sends.
type stoppedBody struct {
	io.ReadCloser
	stopper *stopper
	client  string
	key     string
	at      int64
	stopped bool
}

func (b *stoppedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:b.stopper.room(len(p))])
	b.stopper.moved(b.stopper.uploads, b.key, b.at, b.at+int64(n))
	b.at += int64(n)
	if b.stopper.due(int64(n)) {
		b.stopper.hold(b.client)
		b.stopped = true
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// stoppedWriter is what a client is sent.
type stoppedWriter struct {
	http.ResponseWriter
	stopper *stopper
	client  string
	blob    string
	at      int64
}

func (w *stoppedWriter) Write(p []byte) (int, error) {
	if size, _ := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); w.at+size < plannedBelow {
		return w.ResponseWriter.Write(p)
	}
	sent := 0
	for sent < len(p) {
		n, err := w.ResponseWriter.Write(p[sent : sent+w.stopper.room(len(p)-sent)])
		sent += n
		w.stopper.moved(w.stopper.reads, w.blob, w.at, w.at+int64(n))
		w.at += int64(n)
		if err != nil {
			return sent, err
		}
		if w.stopper.due(int64(n)) {
			_ = http.NewResponseController(w.ResponseWriter).Flush() // a client that is gone is found below
			w.stopper.hold(w.client)
			panic(http.ErrAbortHandler)
		}
	}
	return sent, nil
}

// underWay is how many bytes were sent to a client and not taken from its socket yet: when it is ended, it never got them.
func underWay(t *testing.T, client string) int64 {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp4", client)
	if err != nil {
		t.Fatal(err)
	}
	ip := addr.IP.To4()
	name := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], addr.Port)
	sockets, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for line := range strings.Lines(string(sockets)) {
		// sl local_address rem_address st tx_queue:rx_queue …
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[1] != name && fields[2] != name {
			continue
		}
		sent, received, _ := strings.Cut(fields[4], ":")
		queue := received // at the client
		if fields[2] == name {
			queue = sent
		}
		n, err := strconv.ParseInt(queue, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

// taken waits until a client has read what it was sent.
func taken(t *testing.T, client string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); underWay(t, client) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it doesn't read what it is sent")
		}
	}
}
