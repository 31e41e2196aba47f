package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxLayoutIndex stops an index.json on a hostile medium that fills the memory.
const maxLayoutIndex = 64 << 20

// OpenLayout opens an OCI layout, and makes one in an absent or empty folder. One layout holds all repositories: the
// reference name of a tag is "<repository>:<tag>". Each write is atomic and durable, so that a power cut leaves the
// state before or after it. One process may write at a time.
//
// See https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
func OpenLayout(dir string) (Registry, error) {
	l := &layout{dir: dir, tags: map[string]ocispec.Descriptor{}}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("open OCI layout %s: %w", dir, err)
	}
	return l, nil
}

type layout struct {
	dir string

	mu   sync.RWMutex
	tags map[string]ocispec.Descriptor // by "<repository>:<tag>"
	// batches are under way; unsaved: the index on the disk lags behind.
	batches int
	unsaved bool
}

func (l *layout) load() error {
	index, err := readFile(filepath.Join(l.dir, ocispec.ImageIndexFile), maxLayoutIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return l.create()
	}
	if err != nil {
		return err
	}
	var parsed ocispec.Index
	if err := json.Unmarshal(index, &parsed); err != nil {
		return fmt.Errorf("%s: %w: %w; remove the folder to start anew", ocispec.ImageIndexFile, ErrDamaged, err)
	}
	for _, desc := range parsed.Manifests {
		if name := desc.Annotations[ocispec.AnnotationRefName]; name != "" {
			l.tags[name] = plain(desc)
		}
	}
	return nil
}

func (l *layout) create() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// blobs/ alone is what a power cut leaves between the first write and the index.
	if i := slices.IndexFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() != ocispec.ImageBlobsDir && e.Name() != ocispec.ImageLayoutFile && !strings.HasPrefix(e.Name(), ".")
	}); i >= 0 {
		return fmt.Errorf("the folder holds %s and is no OCI layout; name an empty or absent one", entries[i].Name())
	}
	if err := os.MkdirAll(filepath.Join(l.dir, ocispec.ImageBlobsDir, string(digest.SHA256)), 0o755); err != nil {
		return err
	}
	marker, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.dir, ocispec.ImageLayoutFile), marker); err != nil {
		return err
	}
	return l.save()
}

// repositories are the names of those that have a tag, sorted.
func (l *layout) repositories() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var names []string
	for tagged := range l.tags {
		if i := strings.LastIndexByte(tagged, ':'); i > 0 {
			names = append(names, tagged[:i])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// writeFile replaces a file durably. The new one is made beside it: to look for a better place, as renameio does by
// itself, costs more than to write.
func writeFile(path string, data []byte) error {
	return renameio.WriteFile(path, data, 0o644, renameio.WithTempDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Batch lets tags of a layout wait to be written until end is called: what grows by many is not written anew for each.
// A power cut before leaves the tags of before. On anything but a layout it does nothing.
func Batch(registry Registry) (end func() error) {
	l, ok := registry.(*layout)
	if !ok {
		return func() error { return nil }
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches++
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.batches--
		if !l.unsaved {
			return nil
		}
		return l.save()
	}
}

// save writes the index, or leaves that to the end of a batch; the caller holds the lock.
func (l *layout) save() error {
	if l.unsaved = l.batches > 0; l.unsaved {
		return nil
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for name, desc := range l.tags {
		desc.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		index.Manifests = append(index.Manifests, desc)
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName])
	})
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	// What the index names must be there after a power cut: a rename is durable when its folder is.
	if err := syncDir(filepath.Join(l.dir, ocispec.ImageBlobsDir, string(digest.SHA256))); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.dir, ocispec.ImageIndexFile), data); err != nil {
		return err
	}
	return syncDir(l.dir)
}

func (l *layout) String() string { return l.dir }

func (l *layout) Repository(name string) (Repository, error) {
	if err := checkRepository(name); err != nil {
		return nil, err
	}
	return &layoutRepository{layout: l, name: name}, nil
}

type layoutRepository struct {
	layout *layout
	name   string
}

func (r *layoutRepository) String() string { return r.layout.dir + ":" + r.name }

func (r *layoutRepository) blob(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", d, ErrDamaged, err)
	}
	return filepath.Join(r.layout.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

func (r *layoutRepository) Resolve(_ context.Context, reference string) (ocispec.Descriptor, error) {
	r.layout.mu.RLock()
	desc, ok := r.layout.tags[r.name+":"+reference]
	r.layout.mu.RUnlock()
	if ok {
		return desc, nil
	}
	missing := fmt.Errorf("%s:%s: %w", r, reference, ErrNotFound)
	if digest.Digest(reference).Validate() != nil {
		return ocispec.Descriptor{}, missing
	}
	path, err := r.blob(digest.Digest(reference))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	data, err := readFile(path, MaxManifest)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrTooLarge) {
		return ocispec.Descriptor{}, missing
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(data, &manifest) != nil || !isManifest(ocispec.Descriptor{MediaType: manifest.MediaType}) {
		return ocispec.Descriptor{}, missing
	}
	return Blob{MediaType: manifest.MediaType, Data: data}.descriptorAs(digest.Digest(reference)), nil
}

func (b Blob) descriptorAs(d digest.Digest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: d, Size: int64(len(b.Data))}
}

func (r *layoutRepository) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	path, err := r.blob(desc.Digest)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s@%s: %w", r, desc.Digest, ErrNotFound)
	}
	return file, err
}

// Exists checks the bytes too: a blob that a power cut or a failing disk damaged is as good as absent, so that it is
// fetched again.
func (r *layoutRepository) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	path, err := r.blob(desc.Digest)
	if err != nil {
		return false, err
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	got, err := desc.Digest.Algorithm().FromReader(file)
	return got == desc.Digest, err
}

func (r *layoutRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if err := checkContent(desc, content); err != nil {
		return err
	}
	path, err := r.blob(desc.Digest)
	if err != nil {
		return err
	}
	exists, err := r.Exists(ctx, desc)
	if err != nil {
		return err
	}
	if !exists {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeFile(path, content); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if err := r.Tag(ctx, desc, tag); err != nil {
			return err
		}
	}
	return nil
}

func (r *layoutRepository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	stored, err := r.Resolve(ctx, desc.Digest.String())
	if err != nil {
		return err
	}
	r.layout.mu.Lock()
	defer r.layout.mu.Unlock()
	key := r.name + ":" + tag
	if r.layout.tags[key].Digest == desc.Digest {
		return nil
	}
	r.layout.tags[key] = stored
	return r.layout.save()
}

func (r *layoutRepository) Tags(context.Context) ([]string, error) {
	r.layout.mu.RLock()
	defer r.layout.mu.RUnlock()
	var tags []string
	for key := range r.layout.tags {
		if repository, tag, _ := strings.Cut(key, ":"); repository == r.name {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags, nil
}

// Delete removes a manifest and its tags in this repository. Its blobs stay: other manifests may share them.
func (r *layoutRepository) Delete(ctx context.Context, desc ocispec.Descriptor) error {
	if _, err := r.Resolve(ctx, desc.Digest.String()); err != nil {
		return err
	}
	path, err := r.blob(desc.Digest)
	if err != nil {
		return err
	}
	r.layout.mu.Lock()
	defer r.layout.mu.Unlock()
	shared := false
	for key, tagged := range r.layout.tags {
		if tagged.Digest != desc.Digest {
			continue
		}
		if repository, _, _ := strings.Cut(key, ":"); repository == r.name {
			delete(r.layout.tags, key)
		} else {
			shared = true
		}
	}
	if err := r.layout.save(); err != nil || shared {
		return err
	}
	return os.Remove(path)
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: %w: at most %d bytes are allowed", path, ErrTooLarge, limit)
	}
	return data, err
}
