// Package webhook receives registries' notifications over HTTP and turns them into a hint to look now.
//
// A notification never commands anything: it is compared with the one repository that matters, and at most makes the
// poll come sooner. Known senders are distribution and what is built on it, Harbor, and whoever posts
// {"repository": …, "tag": …}. See [Handler].
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

const (
	// MaxBody stops bodies that never end; a registry batches some hundred events.
	MaxBody = 1 << 20
	// maxBodies stops bodies that come slowly from filling the memory together: more at once are told to come back.
	maxBodies = 16
	// perSecond and burst bound requests. A registry posts one for each blob and manifest that is pushed or pulled, and
	// one that is refused holds up those behind it, so this is far above what a publish causes.
	perSecond, burst = 200, 1000
	// bytesPerSecond and burstBytes bound what anybody can make us parse.
	bytesPerSecond, burstBytes = 2 << 20, 8 << 20
)

// Headers of a signature over the body: sha256=<hex of HMAC-SHA256>.
const (
	HeaderSignature       = "X-Pinnace-Signature-256"
	headerGitHubSignature = "X-Hub-Signature-256" // what other tools already send
)

// Handler answers notifications. Its zero value accepts nothing that matters.
type Handler struct {
	// Repository is the one that matters, relative to the fleet's prefix: targets/<cluster>.
	Repository string
	// Tag is the tag that matters.
	Tag string
	// Secret authenticates senders, by HMAC or as a bearer token. Anybody may hint when it is empty.
	Secret []byte
	// Hint is called when the repository's tag was pushed. It must not block.
	Hint func()
	// Count is told of every request: the sender's kind and what came of it. Nil counts nothing.
	Count func(provider, result string)

	limit, bytes *rate.Limiter
	bodies       *semaphore.Weighted
}

// New returns a handler with its rate limit.
func New(handler Handler) *Handler {
	handler.limit, handler.bytes = rate.NewLimiter(perSecond, burst), rate.NewLimiter(bytesPerSecond, burstBytes)
	handler.bodies = semaphore.NewWeighted(maxBodies)
	return &handler
}

// ServeHTTP answers 202 to every notification that is understood, whether it matters or not, so that a sender learns
// nothing about clusters; 401 without the secret, 429 beyond the rate, 400 and 413 for what is no notification.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		h.refuse(w, http.StatusMethodNotAllowed, "post a registry's notification here")
		return
	}
	if h.limit != nil && !h.limit.Allow() {
		h.tooMany(w)
		return
	}
	if h.bodies != nil {
		if !h.bodies.TryAcquire(1) {
			h.tooMany(w)
			return
		}
		defer h.bodies.Release(1)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		h.refuse(w, status, "the body could not be read")
		return
	}
	if !h.authentic(r.Header, body) {
		h.refuse(w, http.StatusUnauthorized, "sign the body with the webhook's secret, or send it as a bearer token")
		return
	}
	if h.bytes != nil && !h.bytes.AllowN(time.Now(), len(body)) {
		h.tooMany(w)
		return
	}
	events, provider, err := Parse(body)
	if err != nil {
		h.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	result := "ignored"
	for _, event := range events {
		if h.matters(event) {
			result = "hint"
			h.Hint()
			break
		}
	}
	h.count(provider, result)
	w.WriteHeader(http.StatusAccepted)
}

// matters reports whether an event speaks of our repository and tag. A registry names repositories with the fleet's
// prefix, which a mirror may have changed.
func (h *Handler) matters(event Event) bool {
	if h.Repository == "" || event.Tag != "" && event.Tag != h.Tag {
		return false
	}
	return event.Repository == h.Repository || strings.HasSuffix(event.Repository, "/"+h.Repository)
}

// authentic checks a signature over the body, or the bearer token, in constant time.
func (h *Handler) authentic(header http.Header, body []byte) bool {
	if len(h.Secret) == 0 {
		return true
	}
	for _, name := range []string{HeaderSignature, headerGitHubSignature} {
		if sent := header.Get(name); sent != "" {
			got, err := hex.DecodeString(strings.TrimPrefix(sent, "sha256="))
			return err == nil && hmac.Equal(got, sign(h.Secret, body))
		}
	}
	// Harbor sends what it was told to as it is, distribution what its configuration says: usually with "Bearer ".
	token := strings.TrimPrefix(header.Get("Authorization"), "Bearer ")
	return subtle.ConstantTimeCompare([]byte(token), h.Secret) == 1
}

func sign(secret, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return mac.Sum(nil)
}

func (h *Handler) tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	h.refuse(w, http.StatusTooManyRequests, "too many notifications")
}

func (h *Handler) refuse(w http.ResponseWriter, status int, text string) {
	h.count("unknown", "refused")
	http.Error(w, text, status)
}

func (h *Handler) count(provider, result string) {
	if h.Count != nil {
		h.Count(provider, result)
	}
}
