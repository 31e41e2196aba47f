package status

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

const (
	// MaxReport stops reports that fill the memory of who reads thousands of them.
	MaxReport = 1 << 20

	defaultParallel = 64
)

// Report is what a cluster's status repository holds.
type Report struct {
	// Digest of the manifest; empty when there is none.
	Digest string `json:"digest,omitempty"`
	// Status is nil when there is no report, or none that can be trusted: Untrusted says why.
	Status    *v1alpha1.StatusReport `json:"status,omitempty"`
	Untrusted string                 `json:"untrusted,omitempty"`
}

// Reader reads reports. What was read and verified before is not read again: an unchanged report costs one HEAD.
type Reader struct {
	Registry oci.Registry
	// Cache may be nil.
	Cache *Cache
	// Parallel bounds requests at the same time; 64 when zero.
	Parallel int
	// Progress is called after each cluster, one call at a time; may be nil.
	Progress func(done, all int)
}

// Read returns the report of every cluster of the index, in its order. A report that can't be trusted is no error: an
// error means that the registry didn't answer.
func (r *Reader) Read(ctx context.Context, index v1alpha1.FleetIndex) ([]Report, error) {
	reports := make([]Report, len(index.Clusters))
	parallel := r.Parallel
	if parallel <= 0 {
		parallel = defaultParallel
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	var mu sync.Mutex
	done := 0
	for i := range index.Clusters {
		group.Go(func() error {
			var err error
			if reports[i], err = r.read(ctx, index.Fleet, &index.Clusters[i]); err != nil {
				return fmt.Errorf("status of cluster %s: %w", index.Clusters[i].Name, err)
			}
			if r.Progress != nil {
				mu.Lock()
				defer mu.Unlock()
				done++
				r.Progress(done, len(reports))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if r.Cache != nil {
		r.Cache.replace(index, reports)
	}
	return reports, nil
}

func (r *Reader) read(ctx context.Context, fleet string, published *v1alpha1.IndexCluster) (Report, error) {
	repo, err := r.Registry.Repository(v1alpha1.StatusRepository(published.Name))
	if err != nil {
		return Report{}, err
	}
	// An agent removes a report when it sends the next, which may be while this one is read: then it is asked again.
	for range 3 {
		report, gone, err := r.readCurrent(ctx, repo, fleet, published)
		if !gone || err != nil {
			return report, err
		}
	}
	return Report{}, nil
}

// readCurrent reads the report that is current now; gone says that it was removed meanwhile.
func (r *Reader) readCurrent(ctx context.Context, repo oci.Repository, fleet string, published *v1alpha1.IndexCluster) (found Report, gone bool, err error) {
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return Report{}, false, nil
	}
	if err != nil {
		return Report{}, false, err
	}
	digest := desc.Digest.String()
	if r.Cache != nil {
		if known, ok := r.Cache.get(published, digest); ok {
			return known, false, nil
		}
	}
	report, err := readReport(ctx, repo, desc, published)
	if err == nil && (report.Cluster != published.Name || report.Fleet != fleet) {
		err = fmt.Errorf("%w: it speaks of cluster %q of fleet %q", errUntrusted, report.Cluster, report.Fleet)
	}
	var refusal *signing.Error
	switch {
	case err == nil:
		return Report{Digest: digest, Status: &report}, false, nil
	case errors.Is(err, oci.ErrNotFound):
		return Report{}, true, nil
	case errors.As(err, &refusal), errors.Is(err, oci.ErrDamaged), errors.Is(err, oci.ErrTooLarge), errors.Is(err, errUntrusted):
		return Report{Digest: digest, Untrusted: err.Error()}, false, nil
	}
	return Report{}, false, err
}

var errUntrusted = errors.New("the report is not trusted")

func readReport(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, published *v1alpha1.IndexCluster) (v1alpha1.StatusReport, error) {
	var report v1alpha1.StatusReport
	if published.StatusKey == "" {
		return report, fmt.Errorf("%w: the inventory has no key for it; put the agent's public key into the cluster's spec.statusKey", errUntrusted)
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return report, err
	}
	if manifest.ArtifactType != v1alpha1.ArtifactTypeStatus || len(manifest.Layers) != 1 {
		return report, fmt.Errorf("%w: not a status artifact", oci.ErrDamaged)
	}
	envelope, err := oci.ReadAll(ctx, repo, manifest.Layers[0], MaxReport)
	if err != nil {
		return report, err
	}
	payload, err := signing.OpenEnvelope([]byte(published.StatusKey), v1alpha1.MediaTypeStatus, envelope)
	if err != nil {
		return report, fmt.Errorf("%w: %w", errUntrusted, err)
	}
	return report, oci.DecodeJSON(payload, v1alpha1.KindStatusReport, &report, &report.TypeMeta)
}

// Read reads and judges every cluster of the index, without a cache.
func Read(ctx context.Context, registry oci.Registry, index v1alpha1.FleetIndex) (Summary, error) {
	reader := Reader{Registry: registry}
	reports, err := reader.Read(ctx, index)
	if err != nil {
		return Summary{}, err
	}
	return Summarise(index, JudgeAll(index, reports, Options{Now: time.Now()})), nil
}

// trustedBy binds what was verified to the key and the cluster that it was verified for.
func trustedBy(published *v1alpha1.IndexCluster) string {
	sum := sha256.Sum256([]byte(published.Name + "\x00" + published.StatusKey))
	return hex.EncodeToString(sum[:16])
}
