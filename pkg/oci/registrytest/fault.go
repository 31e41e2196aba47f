package registrytest

import (
	"net/http"
	"strconv"
	"time"
)

// Fault is something that goes wrong with matching requests. The kinds of damage may be combined.
type Fault struct {
	Match
	// Skip lets so many matching requests pass first.
	Skip int
	// Times is how often it strikes; always when zero.
	Times int

	// Delay holds the request up, or until its client gives up.
	Delay time.Duration
	// Status answers instead of the registry. 401 asks for basic authentication.
	Status int
	// RetryAfter is sent with Status, in whole seconds.
	RetryAfter time.Duration
	// Body answers with these bytes instead of the registry, with Status or 200.
	Body []byte
	// Corrupt flips a bit of the first byte that the registry sends.
	Corrupt bool
	// Cut breaks the connection after so many bytes of the body: 1 is after the first; not at all when zero.
	Cut int
	// Drop breaks the connection without an answer.
	Drop bool
	// Lie answers as it likes; honest is the registry.
	Lie func(w http.ResponseWriter, r *http.Request, honest http.Handler)
}

// answers says whether the registry is not asked at all.
func (f *Fault) answers() bool { return f.Status != 0 || f.Body != nil || f.Drop || f.Lie != nil }

func (f *Fault) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	if f.Lie != nil {
		f.Lie(w, r, next)
		return
	}
	if f.answers() {
		f.answer(w)
		return
	}
	next.ServeHTTP(&damagedWriter{ResponseWriter: w, corrupt: f.Corrupt, left: f.Cut}, r)
}

func (f *Fault) answer(w http.ResponseWriter) {
	status := f.Status
	if status == 0 {
		status = http.StatusOK
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	w.WriteHeader(status)
	_, _ = w.Write(f.Body) // the client may be gone
}

// damagedWriter damages a body on its way out. Its length, as announced, stays.
type damagedWriter struct {
	http.ResponseWriter
	corrupt bool
	left    int // bytes until the cut; none when zero
}

func (d *damagedWriter) Write(p []byte) (int, error) {
	sent := p
	if d.corrupt && len(p) > 0 {
		sent = append([]byte{p[0] ^ 1}, p[1:]...)
		d.corrupt = false
	}
	if d.left == 0 {
		return d.ResponseWriter.Write(sent)
	}
	if len(sent) < d.left {
		d.left -= len(sent)
		return d.ResponseWriter.Write(sent)
	}
	_, _ = d.ResponseWriter.Write(sent[:d.left])
	_ = http.NewResponseController(d.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
