package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewMemory returns an empty registry in memory, for tests and for rendering without a registry.
func NewMemory() Registry { return &memory{repositories: map[string]*memoryRepository{}} }

type memory struct {
	mu           sync.Mutex
	repositories map[string]*memoryRepository
}

func (m *memory) String() string { return "memory" }

func (m *memory) Repository(name string) (Repository, error) {
	if err := checkRepository(name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.repositories[name] == nil {
		m.repositories[name] = &memoryRepository{
			name: name, blobs: map[digest.Digest][]byte{}, manifests: map[digest.Digest]ocispec.Descriptor{},
			tags: map[string]ocispec.Descriptor{},
		}
	}
	return m.repositories[name], nil
}

type memoryRepository struct {
	name string

	mu        sync.RWMutex
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]ocispec.Descriptor
	tags      map[string]ocispec.Descriptor
}

func (r *memoryRepository) String() string { return "memory/" + r.name }

func (r *memoryRepository) Resolve(_ context.Context, reference string) (ocispec.Descriptor, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if desc, ok := r.tags[reference]; ok {
		return desc, nil
	}
	if desc, ok := r.manifests[digest.Digest(reference)]; ok {
		return desc, nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s:%s: %w", r, reference, ErrNotFound)
}

func (r *memoryRepository) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	data, ok := r.blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s@%s: %w", r, desc.Digest, ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (r *memoryRepository) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.blobs[desc.Digest]
	return ok, nil
}

func (r *memoryRepository) Push(_ context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if err := checkContent(desc, content); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[desc.Digest] = bytes.Clone(content)
	if isManifest(desc) {
		r.manifests[desc.Digest] = plain(desc)
	}
	for _, tag := range tags {
		r.tags[tag] = plain(desc)
	}
	return nil
}

func (r *memoryRepository) Tag(_ context.Context, desc ocispec.Descriptor, tag string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	stored, ok := r.manifests[desc.Digest]
	if !ok {
		return fmt.Errorf("%s@%s: %w", r, desc.Digest, ErrNotFound)
	}
	r.tags[tag] = stored
	return nil
}

func (r *memoryRepository) Tags(context.Context) ([]string, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.tags)), nil
}

func (r *memoryRepository) Delete(_ context.Context, desc ocispec.Descriptor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.manifests[desc.Digest]; !ok {
		return fmt.Errorf("%s@%s: %w", r, desc.Digest, ErrNotFound)
	}
	delete(r.manifests, desc.Digest)
	delete(r.blobs, desc.Digest)
	maps.DeleteFunc(r.tags, func(_ string, tagged ocispec.Descriptor) bool { return tagged.Digest == desc.Digest })
	return nil
}

func isManifest(desc ocispec.Descriptor) bool { return IsManifest(desc.MediaType) }

// plain leaves only what a registry would answer.
func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

func checkContent(desc ocispec.Descriptor, content []byte) error {
	if got := digest.FromBytes(content); got != desc.Digest || int64(len(content)) != desc.Size {
		return fmt.Errorf("%w: %d bytes with digest %s, want %d bytes with digest %s",
			ErrDamaged, len(content), got, desc.Size, desc.Digest)
	}
	return nil
}
