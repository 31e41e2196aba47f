package registry

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	repositorymiddleware "github.com/distribution/distribution/v3/registry/middleware/repository"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// smallBlob is up to which size a blob is read whole. distribution reads every blob through a buffer of 4 MiB that it
// makes for each request: what agents fetch is mostly a few KiB, and hundreds that ask at once would fill the memory.
// It must be less than 4 MiB, the most that distribution reads whole.
const smallBlob = 1 << 20

// blobsForEver is what caches are told of a blob: its content never changes.
const blobsForEver = 365 * 24 * time.Hour

const smallBlobs = "pinnace-small-blobs"

func init() {
	err := repositorymiddleware.Register(smallBlobs, func(_ context.Context, repo distribution.Repository, _ map[string]any) (distribution.Repository, error) {
		return smallBlobRepository{repo}, nil
	})
	if err != nil {
		panic(err) // registered twice
	}
}

// serveSmallBlobs has small blobs served from memory, where the registry's own storage holds them.
func serveSmallBlobs(config *configuration.Configuration) {
	config.Middleware["repository"] = []configuration.Middleware{{Name: smallBlobs}}
}

type smallBlobRepository struct{ distribution.Repository }

// Blobs returns the store of one request.
func (r smallBlobRepository) Blobs(ctx context.Context) distribution.BlobStore {
	return &smallBlobStore{BlobStore: r.Repository.Blobs(ctx)}
}

type smallBlobStore struct {
	distribution.BlobStore
	asked ocispec.Descriptor
}

// Stat is asked by every request before the blob is served.
func (s *smallBlobStore) Stat(ctx context.Context, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc, err := s.BlobStore.Stat(ctx, dgst)
	if err == nil {
		s.asked = desc
	}
	return desc, err
}

// ServeBlob answers as distribution does.
func (s *smallBlobStore) ServeBlob(ctx context.Context, w http.ResponseWriter, r *http.Request, dgst digest.Digest) error {
	if r.Method != http.MethodGet || s.asked.Digest != dgst || s.asked.Size > smallBlob {
		return s.BlobStore.ServeBlob(ctx, w, r, dgst)
	}
	data, err := s.Get(ctx, dgst)
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("ETag", strconv.Quote(dgst.String()))
	header.Set("Cache-Control", fmt.Sprintf("max-age=%.f", blobsForEver.Seconds()))
	header.Set("Docker-Content-Digest", dgst.String())
	header.Set("Content-Type", s.asked.MediaType)
	http.ServeContent(w, r, dgst.String(), time.Time{}, bytes.NewReader(data))
	return nil
}
