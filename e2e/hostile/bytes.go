package hostile

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

const (
	targetRepository = prefix + "/targets/" + clusterName
	bundleRepository = prefix + "/bundles/web"
)

// lieManifest has the registry serve those bytes under a tag, and under their own digest.
func (w *World) lieManifest(repository, tag, mediaType string, data []byte) {
	sum := digest.FromBytes(data)
	answer := func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { serveManifest(rw, mediaType, sum, data) }
	for _, reference := range []string{tag, sum.String()} {
		w.lie(registrytest.KindManifest, prefix+"/"+repository, reference, answer)
	}
}

func serveManifest(rw http.ResponseWriter, mediaType string, sum digest.Digest, data []byte) {
	rw.Header().Set("Content-Type", mediaType)
	rw.Header().Set("Docker-Content-Digest", sum.String())
	rw.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = rw.Write(data) // net/http leaves it out of answers to HEAD
}

// served publishes an honest-looking successor and has the registry answer for its manifest as it is told.
func served(answer func(rw http.ResponseWriter, r *http.Request, honest http.Handler, desc ocispec.Descriptor)) func(*World) {
	return func(w *World) {
		desc := w.evilTarget(w.release)
		lie := func(rw http.ResponseWriter, r *http.Request, honest http.Handler) { answer(rw, r, honest, desc) }
		w.lie(registrytest.KindManifest, targetRepository, v1alpha1.TagCurrent, lie)
		w.lie(registrytest.KindManifest, targetRepository, desc.Digest.String(), lie)
	}
}

// blobs publishes an honest-looking successor and has the registry lie about the new bundle's layer.
func blobs(answer func(rw http.ResponseWriter, r *http.Request, honest http.Handler)) func(*World) {
	return func(w *World) {
		web := w.bundle("web", evil)
		w.publish(w.next(web))
		w.lie(registrytest.KindBlob, bundleRepository, web.LayerDigest, answer)
	}
}

// spoiledManifest serves a bundle's manifest that goes on and on.
func spoiledManifest(w *World) {
	web := w.bundle("web", evil)
	w.publish(w.next(web))
	w.lie(registrytest.KindManifest, bundleRepository, web.Digest, func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
		if r.Method == http.MethodHead {
			rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			rw.Header().Set("Docker-Content-Digest", web.Digest)
			rw.Header().Set("Content-Length", fmt.Sprint(int64(64)<<20))
			return
		}
		endless(rw, r, ocispec.MediaTypeImageManifest)
	})
}

// endless sends until the client has enough.
func endless(rw http.ResponseWriter, r *http.Request, mediaType string) {
	rw.Header().Set("Content-Type", mediaType)
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for r.Context().Err() == nil {
		if _, err := rw.Write(chunk); err != nil {
			return
		}
	}
}

func byteAttacks() []Attack {
	damaged := reasons(agent.ReasonDigestMismatch)
	return []Attack{
		{Name: "wrong bytes for a manifest's digest", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonSignatureMissing), Prepare: served(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler, desc ocispec.Descriptor) {
			serveManifest(rw, ocispec.MediaTypeImageManifest, desc.Digest, []byte(strings.Repeat("x", int(desc.Size))))
		})},
		{Name: "manifest longer than announced", Want: damaged, Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, desc ocispec.Descriptor) {
			if r.Method == http.MethodHead {
				honest.ServeHTTP(rw, r)
				return
			}
			serveManifest(rw, ocispec.MediaTypeImageManifest, desc.Digest, []byte(strings.Repeat(" ", int(desc.Size)*2)))
		})},
		{Name: "manifest shorter than announced", Want: damaged, Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, desc ocispec.Descriptor) {
			if r.Method == http.MethodHead {
				honest.ServeHTTP(rw, r)
				return
			}
			serveManifest(rw, ocispec.MediaTypeImageManifest, desc.Digest, []byte("{}"))
		})},
		{Name: "tag that changes between HEAD and GET", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonKeyNotTrusted, agent.ReasonSignatureMissing), Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, _ ocispec.Descriptor) {
			if r.Method == http.MethodHead {
				honest.ServeHTTP(rw, r)
				return
			}
			other := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[]}`)
			serveManifest(rw, ocispec.MediaTypeImageManifest, digest.FromBytes(other), other)
		})},
		{Name: "index instead of a manifest", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonSignatureMissing), Prepare: func(w *World) {
			index := must(json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}))
			blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: index}
			repo := w.repo(v1alpha1.TargetRepository(clusterName))
			if err := repo.Push(w.ctx, blob.Descriptor(), index, v1alpha1.TagCurrent); err != nil {
				panic(err)
			}
			must(w.release.Sign(w.ctx, repo, blob.Descriptor()))
		}},
		{Name: "wrong media type", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonNotFound), Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, _ ocispec.Descriptor) {
			honest.ServeHTTP(typed{rw, "application/vnd.docker.distribution.manifest.v1+json"}, r)
		})},
		{Name: "digest that is none", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonUnreachable, agent.ReasonNotVerified, agent.ReasonInvalidTarget), Prepare: served(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler, _ ocispec.Descriptor) {
			serveManifest(rw, ocispec.MediaTypeImageManifest, "sha256:evil", []byte("{}"))
		})},
		{Name: "endless manifest", Want: reasons(agent.ReasonTooLarge, agent.ReasonUnreachable, agent.ReasonDigestMismatch), Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, _ ocispec.Descriptor) {
			if r.Method == http.MethodHead {
				honest.ServeHTTP(rw, r)
				return
			}
			endless(rw, r, ocispec.MediaTypeImageManifest)
		})},
		{Name: "manifest of gigabytes", Want: reasons(agent.ReasonTooLarge), Prepare: served(func(rw http.ResponseWriter, r *http.Request, honest http.Handler, desc ocispec.Descriptor) {
			if r.Method != http.MethodHead {
				honest.ServeHTTP(rw, r)
				return
			}
			rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			rw.Header().Set("Docker-Content-Digest", desc.Digest.String())
			rw.Header().Set("Content-Length", fmt.Sprint(int64(8)<<30))
		})},
		{Name: "wrong bytes for a layer", Want: damaged, Prepare: blobs(func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
			honest.ServeHTTP(&flipping{ResponseWriter: rw}, r)
		})},
		{Name: "endless layer", Want: reasons(agent.ReasonTooLarge, agent.ReasonUnreachable, agent.ReasonDigestMismatch), Prepare: blobs(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			endless(rw, r, "application/octet-stream")
		})},
		{Name: "compressed on the way, endlessly", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonTooLarge, agent.ReasonUnreachable), Prepare: blobs(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			rw.Header().Set("Content-Encoding", "gzip")
			_, _ = rw.Write(zeros(1 << 30)) // the client may be gone
		})},
	}
}

// typed claims another media type.
type typed struct {
	http.ResponseWriter
	mediaType string
}

func (t typed) WriteHeader(status int) {
	t.Header().Set("Content-Type", t.mediaType)
	t.ResponseWriter.WriteHeader(status)
}

// flipping turns one bit of a body.
type flipping struct {
	http.ResponseWriter
	done bool
}

func (f *flipping) Write(p []byte) (int, error) {
	if !f.done && len(p) > 0 {
		f.done = true
		p = append([]byte{p[0] ^ 1}, p[1:]...)
	}
	return f.ResponseWriter.Write(p)
}
