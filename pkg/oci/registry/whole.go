package registry

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"regexp"
)

// whole takes blobs that are sent with the one request that begins their upload, which distribution would leave aside:
// a push of small blobs, as Pinnace's are, then costs half of the requests. Within, they are an upload as any other.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#single-post
type whole struct{ next http.Handler }

var uploadsPath = regexp.MustCompile(`^/v2/.+/blobs/uploads/?$`)

func (h whole) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if r.Method != http.MethodPost || !query.Has("digest") || query.Has("mount") || !uploadsPath.MatchString(r.URL.Path) {
		h.next.ServeHTTP(w, r)
		return
	}
	begun := &answer{header: http.Header{}}
	h.next.ServeHTTP(begun, part(r.Context(), r, http.MethodPost, &url.URL{Path: r.URL.Path}))
	location, err := r.URL.Parse(begun.header.Get("Location"))
	if begun.status != http.StatusAccepted || err != nil {
		begun.pass(w)
		return
	}
	upload := location.Query()
	upload.Set("digest", query.Get("digest"))
	at := &url.URL{Path: location.Path, RawQuery: upload.Encode()}
	ended := part(r.Context(), r, http.MethodPut, at)
	ended.Body, ended.ContentLength = r.Body, r.ContentLength
	status := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	h.next.ServeHTTP(status, ended)
	if status.status != http.StatusCreated {
		h.cancel(r, at)
	}
}

// cancel forgets an upload that failed: nobody was told where it would go on. How far it came has to be asked before.
func (h whole) cancel(r *http.Request, at *url.URL) {
	ctx := context.WithoutCancel(r.Context())
	status := &answer{header: http.Header{}}
	h.next.ServeHTTP(status, part(ctx, r, http.MethodGet, at))
	if location, err := r.URL.Parse(status.header.Get("Location")); err == nil && status.status == http.StatusNoContent {
		at = &url.URL{Path: location.Path, RawQuery: location.RawQuery}
		h.next.ServeHTTP(&answer{header: http.Header{}}, part(ctx, r, http.MethodDelete, at))
	}
}

// part is a request, without a body, in the name of the one that came.
func part(ctx context.Context, r *http.Request, method string, at *url.URL) *http.Request {
	inner := r.Clone(ctx)
	inner.Method, inner.URL, inner.RequestURI = method, at, at.RequestURI()
	inner.Body, inner.ContentLength = http.NoBody, 0
	inner.Header.Del("Content-Length")
	return inner
}

// answer keeps a response that isn't sent, or not yet.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *answer) pass(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(max(a.status, http.StatusOK))
	_, _ = w.Write(a.body.Bytes()) // the client may be gone
}
