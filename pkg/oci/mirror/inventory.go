package mirror

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/oci"
)

// Look asks a receiver what it has of a closure. A repository that has no tag costs one request: everything that is
// mirrored is tagged, or belongs to something that is.
func Look(ctx context.Context, to oci.Registry, closure *Closure, jobs int) (Inventory, error) {
	l := &look{
		to: to, jobs: cmp.Or(jobs, defaultJobs),
		found: Inventory{Manifests: map[string]bool{}, Blobs: map[string]bool{}, Tags: map[string]digest.Digest{}},
	}
	byRepository := map[string][]*Entry{}
	for _, entry := range closure.Entries {
		byRepository[entry.Repository] = append(byRepository[entry.Repository], entry)
	}
	return l.found, l.all(ctx, byRepository)
}

type look struct {
	to   oci.Registry
	jobs int

	mu    sync.Mutex
	found Inventory
}

func (l *look) all(ctx context.Context, byRepository map[string][]*Entry) error {
	var mu sync.Mutex
	var first, second []func(context.Context) error
	for name, entries := range byRepository {
		first = append(first, func(ctx context.Context) error {
			repo, err := l.to.Repository(name)
			if err != nil {
				return err
			}
			tags, err := repo.Tags(ctx)
			if err != nil || len(tags) == 0 {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, entry := range entries {
				second = append(second, func(ctx context.Context) error { return l.entry(ctx, repo, entry, tags) })
			}
			return nil
		})
	}
	if err := runAll(ctx, l.jobs, first); err != nil {
		return err
	}
	return runAll(ctx, l.jobs, second)
}

func runAll(ctx context.Context, jobs int, work []func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for _, do := range work {
		group.Go(func() error { return do(ctx) })
	}
	return group.Wait()
}

func (l *look) entry(ctx context.Context, repo oci.Repository, entry *Entry, tags []string) error {
	exists, err := repo.Exists(ctx, entry.Descriptor())
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.found.Manifests[entry.Key()] = exists
	for _, tag := range entry.Tags {
		if _, there := slices.BinarySearch(tags, tag); there {
			l.found.Tags[entry.Repository+":"+tag] = tagThere
		}
	}
	l.mu.Unlock()
	for _, tag := range entry.Moving {
		desc, err := repo.Resolve(ctx, tag) // a list of tags doesn't say what they point at
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			return err
		}
		l.mu.Lock()
		l.found.Tags[entry.Repository+":"+tag] = desc.Digest
		l.mu.Unlock()
	}
	if exists {
		return nil
	}
	for _, blob := range entry.Blobs {
		there, err := repo.Exists(ctx, ocispec.Descriptor{MediaType: mediaTypeBlob, Digest: blob.Digest, Size: blob.Size})
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.found.Blobs[entryKey(entry.Repository, blob.Digest)] = there
		l.mu.Unlock()
	}
	return nil
}

// mediaTypeBlob is what a blob is asked for as: what isn't a manifest's type means a blob.
const mediaTypeBlob = "application/octet-stream"
