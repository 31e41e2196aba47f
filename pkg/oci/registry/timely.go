package registry

import (
	"io"
	"net/http"
	"time"
)

// Bounds on what a client may keep to itself. How many connections there are is the operating system's to say.
const (
	// DefaultStall stops clients that open connections, or begin a request, and say nothing more.
	DefaultStall = 30 * time.Second
	// idleTimeout closes connections over which nothing is asked any more.
	idleTimeout = 3 * time.Minute
	// maxHeader stops headers that fill the memory; tokens have some kilobytes.
	maxHeader = 64 << 10
)

// timely gives up bodies of which nothing comes for that long. One that comes slowly may take its time: links are thin.
func timely(stall time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &timelyBody{ReadCloser: r.Body, connection: http.NewResponseController(w), stall: stall}
		}
		next.ServeHTTP(w, r)
	})
}

type timelyBody struct {
	io.ReadCloser
	connection *http.ResponseController
	stall      time.Duration
}

func (b *timelyBody) Read(p []byte) (int, error) {
	if err := b.connection.SetReadDeadline(time.Now().Add(b.stall)); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		// What is left to do for the request is not held against the client.
		_ = b.connection.SetReadDeadline(time.Time{})
	}
	return n, err
}
