package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// FindStatus is the closure of what the agents of a site reported, for the way back, with what opens its repositories.
// Reports are in the site's registry, or, where that takes none, in the layouts that agents keep: of a cluster that is
// in several places the newest report counts. Reports are signed by their clusters' keys, and are judged where they
// arrive.
func FindStatus(ctx context.Context, places ...oci.Registry) (*Closure, func(*Entry) (oci.Repository, error), error) {
	f := statusFinder{found: map[string]foundStatus{}}
	for _, place := range places {
		names, err := statusRepositories(ctx, place)
		if err != nil {
			return nil, nil, err
		}
		var work []func(context.Context) error
		for _, name := range names {
			work = append(work, func(ctx context.Context) error { return f.look(ctx, place, name) })
		}
		if err := runAll(ctx, defaultJobs, work); err != nil {
			return nil, nil, err
		}
	}
	closure := &Closure{}
	for name, found := range f.found {
		closure.Entries = append(closure.Entries, found.entry)
		closure.Clusters = append(closure.Clusters, strings.TrimPrefix(name, v1alpha1.StatusRepository("")))
	}
	slices.Sort(closure.Clusters)
	closure.sort()
	return closure, func(entry *Entry) (oci.Repository, error) {
		found, ok := f.found[entry.Repository]
		if !ok {
			return nil, fmt.Errorf("report %s: %w", entry.Repository, oci.ErrNotFound)
		}
		return found.repo, nil
	}, nil
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

type foundStatus struct {
	entry *Entry
	repo  oci.Repository
	at    metav1.Time
}

type statusFinder struct {
	mu    sync.Mutex
	found map[string]foundStatus // by repository
}

// look keeps the report of a repository, if there is one and none newer was found.
func (f *statusFinder) look(ctx context.Context, place oci.Registry, name string) error {
	repo, err := place.Repository(name)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return nil // no report yet
	}
	if err != nil {
		return err
	}
	m, err := readManifest(ctx, repo, desc)
	if err != nil {
		return err
	}
	found := foundStatus{repo: repo, at: reportedAt(ctx, repo, m), entry: &Entry{
		Kind: KindStatus, Repository: name, MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		Moving: []string{v1alpha1.TagCurrent}, Blobs: m.blobs(), Why: []string{"status of cluster " + strings.TrimPrefix(name, v1alpha1.StatusRepository(""))},
	}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if other, ok := f.found[name]; !ok || other.at.Before(&found.at) {
		f.found[name] = found
	}
	return nil
}

// reportedAt is when a report says that it was made: good enough to choose by. It is zero for one that can't be read.
func reportedAt(ctx context.Context, repo oci.Repository, m manifest) metav1.Time {
	var report struct {
		ReportedAt metav1.Time `json:"reportedAt"`
	}
	if len(m.Layers) == 1 {
		if data, err := oci.ReadAll(ctx, repo, m.Layers[0], v1alpha1.MaxReportSize*2); err == nil {
			if payload, err := UnwrapUnsafe(data); err == nil {
				_ = json.Unmarshal(payload, &report) // what can't be read is zero
			}
		}
	}
	return report.ReportedAt
}
