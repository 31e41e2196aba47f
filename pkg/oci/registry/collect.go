package registry

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultGrace is how long what nothing refers to is left alone: blobs come before the manifest that names them.
const DefaultGrace = time.Hour

func (o Options) grace() time.Duration {
	if o.CollectGrace > 0 {
		return o.CollectGrace
	}
	return DefaultGrace
}

// Collected is what a collection deleted, or would.
type Collected struct {
	// Manifests are those that no tag, index or list of referrers names, as repository@digest; what is attached to them
	// too.
	Manifests []string `json:"manifests"`
	Blobs     int      `json:"blobs"`
	Bytes     int64    `json:"bytes"`
	// Kept are manifests and blobs that nothing refers to, and that are younger than the grace.
	Kept int `json:"kept"`
}

// CollectOptions say what is collected.
type CollectOptions struct {
	// Grace is how long what nothing refers to is left alone; DefaultGrace when zero, none when negative.
	Grace  time.Duration
	DryRun bool
	Now    time.Time
}

// Collect deletes what nothing refers to from a registry's folder: manifests without a tag that no index names,
// signatures of what is gone, and blobs of no manifest. Where a registry serves the folder, it should collect by itself:
// see Options.CollectEvery.
func Collect(ctx context.Context, root string, opts CollectOptions) (Collected, error) {
	return collect(ctx, root, opts, func(string) bool { return false })
}

// collect leaves blobs alone that somebody asked for not long ago.
func collect(ctx context.Context, root string, opts CollectOptions, asked func(blob string) bool) (Collected, error) {
	quietLogrus()
	root, err := filepath.Abs(root)
	if err != nil {
		return Collected{}, err
	}
	files, err := filesystem.FromParameters(map[string]any{"rootdirectory": root})
	if err != nil {
		return Collected{}, fmt.Errorf("collect in %s: %w", root, err)
	}
	registry, err := storage.NewRegistry(ctx, files, storage.EnableDelete)
	if err != nil {
		return Collected{}, fmt.Errorf("collect in %s: %w", root, err)
	}
	if opts.Grace == 0 {
		opts.Grace = DefaultGrace
	}
	c := &collection{
		CollectOptions: opts, files: files, registry: registry, vacuum: storage.NewVacuum(ctx, files), asked: asked,
		marked: map[digest.Digest]bool{},
	}
	if err := c.run(ctx); err != nil {
		return c.found, fmt.Errorf("collect in %s: %w", root, err)
	}
	return c.found, nil
}

type collection struct {
	CollectOptions
	files    driver.StorageDriver
	registry distribution.Namespace
	vacuum   storage.Vacuum
	asked    func(blob string) bool

	marked map[digest.Digest]bool // blobs and manifests that stay, in any repository
	found  Collected
}

func (c *collection) run(ctx context.Context) error {
	repositories, ok := c.registry.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.New("the storage doesn't list repositories")
	}
	var names []string
	err := repositories.Enumerate(ctx, func(name string) error {
		names = append(names, name)
		return nil
	})
	if absent(err) {
		return nil // nothing was ever pushed
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.repository(ctx, name); err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
	}
	return c.blobs(ctx)
}

func absent(err error) bool { return errors.As(err, new(driver.PathNotFoundError)) }

// held is a repository as it is stored.
type held struct {
	repository distribution.Repository
	manifests  distribution.ManifestService
	refers     map[digest.Digest][]digest.Digest // every manifest, and what it names
	tags       map[digest.Digest][]string
}

func (c *collection) read(ctx context.Context, name string) (*held, error) {
	named, err := reference.WithName(name)
	if err != nil {
		return nil, err
	}
	h := &held{refers: map[digest.Digest][]digest.Digest{}, tags: map[digest.Digest][]string{}}
	if h.repository, err = c.registry.Repository(ctx, named); err != nil {
		return nil, err
	}
	if h.manifests, err = h.repository.Manifests(ctx); err != nil {
		return nil, err
	}
	enumerator, ok := h.manifests.(distribution.ManifestEnumerator)
	if !ok {
		return nil, errors.New("the storage doesn't list manifests")
	}
	err = enumerator.Enumerate(ctx, func(d digest.Digest) error {
		manifest, err := h.manifests.Get(ctx, d)
		if err != nil {
			return err
		}
		h.refers[d] = []digest.Digest{}
		for _, desc := range manifest.References() {
			h.refers[d] = append(h.refers[d], desc.Digest)
		}
		return nil
	})
	if err != nil && !absent(err) {
		return nil, err
	}
	tags, err := h.repository.Tags(ctx).All(ctx)
	if err != nil && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
		return nil, err
	}
	for _, tag := range tags {
		desc, err := h.repository.Tags(ctx).Get(ctx, tag)
		if errors.As(err, new(distribution.ErrTagUnknown)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.tags[desc.Digest] = append(h.tags[desc.Digest], tag)
	}
	return h, nil
}

// attachment is a tag of what belongs to a manifest: sha256-<hex>, and .sig, .att or .sbom behind it.
var attachment = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.[a-z]+)?$`)

// live returns the manifests that stay: those under a tag of their own, what they name, and what is attached to any of
// these. It is pure.
func live(refers map[digest.Digest][]digest.Digest, tags map[digest.Digest][]string) map[digest.Digest]bool {
	stays := map[digest.Digest]bool{}
	attached := map[digest.Digest][]digest.Digest{} // by subject
	var mark func(d digest.Digest)
	mark = func(d digest.Digest) {
		if stays[d] {
			return
		}
		if _, manifest := refers[d]; !manifest {
			return
		}
		stays[d] = true
		for _, below := range refers[d] {
			mark(below)
		}
		for _, above := range attached[d] {
			mark(above)
		}
	}
	var roots []digest.Digest
	for d, names := range tags {
		for _, tag := range names {
			if m := attachment.FindStringSubmatch(tag); m != nil {
				subject := digest.NewDigestFromEncoded(digest.SHA256, m[1])
				attached[subject] = append(attached[subject], d)
			} else {
				roots = append(roots, d)
			}
		}
	}
	for _, d := range roots {
		mark(d)
	}
	return stays
}

func (c *collection) repository(ctx context.Context, name string) error {
	h, err := c.read(ctx, name)
	if err != nil {
		return err
	}
	stays := live(h.refers, h.tags)
	for d := range h.refers {
		young := false
		if !stays[d] {
			if young, err = c.young(ctx, manifestLink(name, d)); err != nil {
				return err
			}
			if young {
				c.found.Kept++
			}
		}
		if stays[d] || young {
			c.marked[d] = true
			for _, below := range h.refers[d] {
				c.marked[below] = true
			}
			continue
		}
		c.found.Manifests = append(c.found.Manifests, name+"@"+d.String())
		if c.DryRun {
			continue
		}
		for _, tag := range h.tags[d] {
			if err := h.repository.Tags(ctx).Untag(ctx, tag); err != nil && !absent(err) {
				return err
			}
		}
		if err := c.vacuum.RemoveManifest(name, d, h.tags[d]); err != nil && !absent(err) {
			return err
		}
	}
	slices.Sort(c.found.Manifests)
	return c.links(ctx, name, h)
}

// links deletes the repository's links to blobs that none of its manifests names.
func (c *collection) links(ctx context.Context, name string, h *held) error {
	layers, ok := h.repository.Blobs(ctx).(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the storage doesn't list layers")
	}
	named := map[digest.Digest]bool{}
	for d, below := range h.refers {
		if c.marked[d] {
			for _, one := range below {
				named[one] = true
			}
		}
	}
	var gone []digest.Digest
	err := layers.Enumerate(ctx, func(d digest.Digest) error {
		if named[d] {
			return nil
		}
		young, err := c.young(ctx, layerLink(name, d))
		if err != nil {
			return err
		}
		if young || c.asked(d.String()) {
			c.marked[d] = true // its manifest may be on its way
			c.found.Kept++
			return nil
		}
		gone = append(gone, d)
		return nil
	})
	if err != nil && !absent(err) || c.DryRun {
		return ignoreAbsent(err)
	}
	for _, d := range gone {
		if err := c.vacuum.RemoveLayer(name, d); err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

func ignoreAbsent(err error) error {
	if absent(err) {
		return nil
	}
	return err
}

// blobs deletes blobs that no repository needs.
func (c *collection) blobs(ctx context.Context) error {
	var gone []digest.Digest
	err := c.registry.Blobs().Enumerate(ctx, func(d digest.Digest) error {
		if c.marked[d] || c.asked(d.String()) {
			return nil
		}
		info, err := c.files.Stat(ctx, blobData(d))
		if absent(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.Now.Sub(info.ModTime()) < c.Grace {
			c.found.Kept++
			return nil
		}
		c.found.Blobs++
		c.found.Bytes += info.Size()
		gone = append(gone, d)
		return nil
	})
	if err != nil || c.DryRun {
		return ignoreAbsent(err)
	}
	for _, d := range gone {
		if err := c.vacuum.RemoveBlob(d.String()); err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

// young says whether a file came within the grace.
func (c *collection) young(ctx context.Context, file string) (bool, error) {
	info, err := c.files.Stat(ctx, file)
	if absent(err) {
		return false, nil
	}
	return err == nil && c.Now.Sub(info.ModTime()) < c.Grace, err
}

// Where distribution keeps things.
//
// See https://github.com/distribution/distribution/blob/v3.1.2/registry/storage/paths.go
const storageRoot = "/docker/registry/v2"

func manifestLink(name string, d digest.Digest) string {
	return path.Join(storageRoot, "repositories", name, "_manifests/revisions", d.Algorithm().String(), d.Encoded(), "link")
}

func layerLink(name string, d digest.Digest) string {
	return path.Join(storageRoot, "repositories", name, "_layers", d.Algorithm().String(), d.Encoded(), "link")
}

func blobData(d digest.Digest) string {
	return path.Join(storageRoot, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}
