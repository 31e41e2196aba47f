package oci

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxRemembered stops blobs that fill the memory: manifests, configs and signatures are small, layers go by.
const maxRemembered = 1 << 20

// Remember returns a view of a repository that asks for nothing twice: what was resolved and every small blob stay in
// memory as long as the view does, so that verifying an artifact, reading and copying it cost one request for each of its
// parts. It is for one artifact and the moment: a tag that moves is not noticed.
func Remember(repo Repository) Repository {
	return &remembering{Repository: repo, resolved: map[string]ocispec.Descriptor{}, blobs: map[digest.Digest][]byte{}}
}

type remembering struct {
	Repository

	mu       sync.Mutex
	resolved map[string]ocispec.Descriptor
	blobs    map[digest.Digest][]byte
}

// Resolve reads the manifest at once, where a registry gives both in one answer: who asks for it will read it.
func (r *remembering) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	r.mu.Lock()
	desc, known := r.resolved[reference]
	r.mu.Unlock()
	if known {
		return desc, nil
	}
	var data []byte
	var err error
	if _, ok := r.Repository.(tagFetcher); ok {
		desc, data, err = FetchTagged(ctx, r.Repository, reference)
	} else {
		desc, err = r.Repository.Resolve(ctx, reference)
	}
	if err != nil {
		return desc, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resolved[reference] = desc
	if data != nil {
		r.blobs[desc.Digest] = data
	}
	return desc, nil
}

func (r *remembering) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r.mu.Lock()
	data, known := r.blobs[desc.Digest]
	r.mu.Unlock()
	if !known {
		if desc.Size > maxRemembered {
			return r.Repository.Fetch(ctx, desc)
		}
		var err error
		if data, err = ReadAll(ctx, r.Repository, desc, maxRemembered); err != nil {
			return nil, err
		}
		r.mu.Lock()
		r.blobs[desc.Digest] = data
		r.mu.Unlock()
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (r *remembering) fetchTagged(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	desc, err := r.Resolve(ctx, reference)
	if err != nil {
		return desc, nil, err
	}
	reader, err := r.Fetch(ctx, desc)
	return desc, reader, err
}

func (r *remembering) listReferrers(ctx context.Context, subject ocispec.Descriptor) (list []ocispec.Descriptor, native bool, err error) {
	return listReferrers(ctx, r.Repository, subject)
}
