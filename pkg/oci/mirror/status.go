package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// FindStatus is the closure of what the agents of a site reported, for the way back. Reports are signed by their
// clusters' keys, and are judged where they arrive.
func FindStatus(ctx context.Context, registry oci.Registry) (*Closure, error) {
	names, err := statusRepositories(ctx, registry)
	if err != nil {
		return nil, err
	}
	closure := &Closure{}
	var mu sync.Mutex
	var work []func(context.Context) error
	for _, name := range names {
		work = append(work, func(ctx context.Context) error {
			entry, err := statusEntry(ctx, registry, name)
			if err != nil || entry == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			closure.Entries = append(closure.Entries, entry)
			closure.Clusters = append(closure.Clusters, strings.TrimPrefix(name, "status/"))
			return nil
		})
	}
	if err := runAll(ctx, defaultJobs, work); err != nil {
		return nil, err
	}
	slices.Sort(closure.Clusters)
	closure.sort()
	return closure, nil
}

// statusRepositories are those that the registry lists, or, where it doesn't, those of the targets that it was sent.
func statusRepositories(ctx context.Context, registry oci.Registry) ([]string, error) {
	var names []string
	all, err := oci.Catalog(ctx, registry)
	if errors.Is(err, oci.ErrUnsupported) {
		receipt, _, err := ReadReceipt(ctx, registry)
		if err != nil {
			return nil, err
		}
		for name := range receipt.Repositories {
			if cluster, ok := strings.CutPrefix(name, v1alpha1.TargetRepository("")); ok {
				names = append(names, v1alpha1.StatusRepository(cluster))
			}
		}
		return names, nil
	}
	for _, name := range all {
		if strings.HasPrefix(name, v1alpha1.StatusRepository("")) {
			names = append(names, name)
		}
	}
	return names, err
}

func statusEntry(ctx context.Context, registry oci.Registry, name string) (*Entry, error) {
	repo, err := registry.Repository(name)
	if err != nil {
		return nil, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil // no report yet
	}
	if err != nil {
		return nil, err
	}
	m, err := readManifest(ctx, repo, desc)
	if err != nil {
		return nil, err
	}
	return &Entry{
		Kind: KindStatus, Repository: name, MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		Moving: []string{v1alpha1.TagCurrent}, Blobs: m.blobs(), Why: []string{"status of cluster " + strings.TrimPrefix(name, v1alpha1.StatusRepository(""))},
	}, nil
}
