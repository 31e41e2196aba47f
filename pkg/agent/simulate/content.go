package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Pool keeps the verified content of many agents, each blob once. Blobs are never forgotten: a simulation ends.
type Pool struct {
	mu    sync.RWMutex
	blobs map[digest.Digest][]byte
}

// NewPool returns an empty pool.
func NewPool() *Pool { return &Pool{blobs: map[digest.Digest][]byte{}} }

// Content returns one agent's content: its own tags, on shared blobs.
func (p *Pool) Content() oci.Registry {
	return &content{pool: p, tags: map[string]ocispec.Descriptor{}, has: map[digest.Digest]bool{}}
}

type content struct {
	pool *Pool

	mu   sync.Mutex
	tags map[string]ocispec.Descriptor // by "<repository>:<tag>"
	has  map[digest.Digest]bool        // what this agent fetched itself
}

func (c *content) String() string { return "memory" }

func (c *content) Repository(name string) (oci.Repository, error) { return &repository{c, name}, nil }

type repository struct {
	*content
	name string
}

func (r *repository) String() string { return "memory:" + r.name }

func (r *repository) missing(reference string) error {
	return fmt.Errorf("%s:%s: %w", r, reference, oci.ErrNotFound)
}

func (r *repository) Resolve(_ context.Context, reference string) (ocispec.Descriptor, error) {
	r.mu.Lock()
	desc, found := r.tags[r.name+":"+reference]
	r.mu.Unlock()
	if found {
		return desc, nil
	}
	data, err := r.blob(digest.Digest(reference))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(data, &manifest) != nil || manifest.MediaType == "" {
		return ocispec.Descriptor{}, r.missing(reference)
	}
	return ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.Digest(reference), Size: int64(len(data))}, nil
}

func (r *repository) blob(d digest.Digest) ([]byte, error) {
	r.mu.Lock()
	has := r.has[d]
	r.mu.Unlock()
	if !has {
		return nil, r.missing(string(d))
	}
	r.pool.mu.RLock()
	defer r.pool.mu.RUnlock()
	return r.pool.blobs[d], nil
}

func (r *repository) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, err := r.blob(desc.Digest)
	return io.NopCloser(bytes.NewReader(data)), err
}

func (r *repository) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has[desc.Digest], nil
}

func (r *repository) Push(ctx context.Context, desc ocispec.Descriptor, data []byte, tags ...string) error {
	if digest.FromBytes(data) != desc.Digest {
		return fmt.Errorf("%s@%s: %w", r, desc.Digest, oci.ErrDamaged)
	}
	r.pool.mu.Lock()
	if _, found := r.pool.blobs[desc.Digest]; !found {
		r.pool.blobs[desc.Digest] = bytes.Clone(data)
	}
	r.pool.mu.Unlock()
	r.mu.Lock()
	r.has[desc.Digest] = true
	r.mu.Unlock()
	for _, tag := range tags {
		if err := r.Tag(ctx, desc, tag); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) Tag(_ context.Context, desc ocispec.Descriptor, tag string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[r.name+":"+tag] = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return nil
}

func (r *repository) Tags(context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var tags []string
	for key := range maps.Keys(r.tags) {
		if tag, found := bytes.CutPrefix([]byte(key), []byte(r.name+":")); found {
			tags = append(tags, string(tag))
		}
	}
	slices.Sort(tags)
	return tags, nil
}

func (r *repository) Delete(_ context.Context, desc ocispec.Descriptor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.tags, func(_ string, tagged ocispec.Descriptor) bool { return tagged.Digest == desc.Digest })
	delete(r.has, desc.Digest)
	return nil
}
