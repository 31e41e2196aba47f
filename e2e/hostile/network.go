package hostile

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// lure is another host that waits for credentials.
type lure struct{ asked, leaked atomic.Int32 }

// open returns the lure's address, as another host than the registry's.
func (l *lure) open(w *World) string {
	address := w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		l.asked.Add(1)
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || r.Method == http.MethodPost {
			l.leaked.Add(1)
		}
		_, _ = rw.Write([]byte(`{"token":"evil"}`)) // whoever asks
	}))
	return "http://" + strings.Replace(address, "127.0.0.1", "localhost", 1)
}

// notLeaked is the check that no credentials came.
func (l *lure) notLeaked() error {
	if l.leaked.Load() > 0 {
		return errors.New("credentials were sent to another host")
	}
	return nil
}

func (l *lure) notAsked() error {
	if l.asked.Load() > 0 {
		return errors.New("another host was asked")
	}
	return nil
}

// demanding answers the first requests as a registry with accounts does, so that there are credentials to be had.
func demanding(next http.HandlerFunc) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
		if r.Header.Get("Authorization") == "" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(rw, r)
	}
}

// everything has the registry lie about every request.
func everything(answer func(rw http.ResponseWriter, r *http.Request, honest http.Handler)) func(*World) {
	return func(w *World) {
		w.evilTarget(w.release)
		w.lie("", "", "", answer)
	}
}

func status(code int) func(*World) {
	return everything(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { rw.WriteHeader(code) })
}

func networkAttacks() []Attack {
	unsafe, unreachable := reasons(agent.ReasonUnsafeAnswer), reasons(agent.ReasonUnreachable)
	var realm, redirect, oauth lure
	return []Attack{
		{Name: "redirect loop", Want: unsafe, Prepare: everything(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(rw, r, r.URL.Path, http.StatusTemporaryRedirect)
		})},
		{Name: "redirect to another host with credentials", Check: redirect.notLeaked, Want: reasons(agent.ReasonDigestMismatch, agent.ReasonUnreachable, agent.ReasonUnsafeAnswer), Prepare: func(w *World) {
			other := redirect.open(w)
			everything(demanding(func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, other+r.URL.Path, http.StatusTemporaryRedirect)
			}))(w)
		}},
		{Name: "redirect to where a cloud keeps a machine's credentials", Want: unsafe, Prepare: everything(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(rw, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		})},
		{Name: "redirect out of HTTP", Want: unsafe, Prepare: everything(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(rw, r, "file:///etc/passwd", http.StatusFound)
		})},
		{Name: "realm on another host", Check: realm.notAsked, Want: unsafe, Prepare: func(w *World) {
			other := realm.open(w)
			everything(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
				rw.Header().Set("WWW-Authenticate", `Bearer realm="`+other+`/token",service="registry",scope="*"`)
				rw.WriteHeader(http.StatusUnauthorized)
			})(w)
		}},
		{Name: "realm that redirects to another host", Check: oauth.notLeaked, Want: reasons(agent.ReasonUnsafeAnswer, agent.ReasonUnauthorized, agent.ReasonUnreachable), Prepare: func(w *World) {
			other := oauth.open(w)
			everything(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				if r.URL.Path == "/token" {
					http.Redirect(rw, r, other+"/token", http.StatusTemporaryRedirect)
					return
				}
				rw.Header().Set("WWW-Authenticate", `Bearer realm="http://`+w.address+`/token",service="registry"`)
				rw.WriteHeader(http.StatusUnauthorized)
			})(w)
		}},
		{Name: "no answer to anything but 401", Want: reasons(agent.ReasonUnauthorized), Prepare: status(http.StatusUnauthorized)},
		{Name: "no answer to anything but 403", Want: reasons(agent.ReasonUnauthorized), Prepare: status(http.StatusForbidden)},
		{Name: "everything is gone", Want: reasons(agent.ReasonNotFound), Prepare: status(http.StatusNotFound)},
		{Name: "garbage for everything", Want: reasons(agent.ReasonUnreachable, agent.ReasonDigestMismatch), Prepare: everything(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = rw.Write([]byte(strings.Repeat("\x00garbage", 1000)))
		})},
		{Name: "headers without end", Want: unreachable, Prepare: everything(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			for i := range 10_000 {
				rw.Header().Set(fmt.Sprintf("X-Header-%d", i), strings.Repeat("x", 1000))
			}
		})},
		{Name: "body that drips", Want: unreachable, Prepare: blobs(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
			drip(rw, r, honest, 100*time.Millisecond)
		})},
		{Name: "body that never comes", Want: unreachable, Prepare: blobs(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) { drip(rw, r, honest, time.Hour) })},
		{Name: "connection cut in the middle", Want: unreachable, Prepare: func(w *World) {
			web := w.bundle("web", evil)
			w.publish(w.next(web))
			w.Lies.Inject(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindBlob, Repository: bundleRepository, Reference: web.LayerDigest}, Cut: 10})
		}},
		{Name: "referrers that never end", Want: reasons(agent.ReasonTooLarge, agent.ReasonSignatureMissing, agent.ReasonUnreachable), Prepare: func(w *World) {
			w.evilTarget()
			w.lie(registrytest.KindReferrers, targetRepository, "", endlessReferrers)
		}},
		{Name: "manifest deleted between two fetches", Want: reasons(agent.ReasonNotFound), Prepare: func(w *World) {
			web := w.bundle("web", evil)
			w.publish(w.next(web))
			w.Lies.Inject(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindManifest, Repository: bundleRepository, Reference: web.Digest, Method: http.MethodGet}, Status: http.StatusNotFound})
		}},
		{Name: "layer deleted between two fetches", Want: reasons(agent.ReasonNotFound), Prepare: func(w *World) {
			web := w.bundle("web", evil)
			w.publish(w.next(web))
			w.Lies.Inject(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindBlob, Repository: bundleRepository, Reference: web.LayerDigest}, Status: http.StatusNotFound})
		}},
		{Name: "bundle that was never there", Want: reasons(agent.ReasonNotFound), Prepare: changedBundle(func(b *v1alpha1.TargetBundle) {
			b.Digest = "sha256:" + strings.Repeat("a", 64)
		})},
		{Name: "frozen at the target in force", Harmless: true, Prepare: func(w *World) {
			first := must(w.repo(v1alpha1.TargetRepository(clusterName)).Resolve(w.ctx, v1alpha1.TagCurrent))
			w.evilTarget()
			w.lie(registrytest.KindManifest, targetRepository, v1alpha1.TagCurrent, func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
				rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				rw.Header().Set("Docker-Content-Digest", first.Digest.String())
				rw.Header().Set("Content-Length", fmt.Sprint(first.Size))
			})
		}},
	}
}

// drip sends a byte of the honest answer at a time, with a pause after each.
func drip(rw http.ResponseWriter, r *http.Request, honest http.Handler, pause time.Duration) {
	answer := httptest.NewRecorder()
	honest.ServeHTTP(answer, r)
	maps.Copy(rw.Header(), answer.Header())
	rw.WriteHeader(answer.Code)
	for _, one := range answer.Body.Bytes() {
		if _, err := rw.Write([]byte{one}); err != nil {
			return
		}
		_ = http.NewResponseController(rw).Flush() // the client may be gone
		timer := time.NewTimer(pause)
		select {
		case <-r.Context().Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// endlessReferrers is a page that says that there is another one, always.
func endlessReferrers(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
	rw.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	rw.Header().Set("Link", "<"+r.URL.Path+fmt.Sprintf("?page=%d>; rel=\"next\"", time.Now().UnixNano()))
	_, _ = rw.Write([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`))
}
