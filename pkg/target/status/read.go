package status

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

const (
	// MaxReport stops reports that fill the memory of who reads thousands of them.
	MaxReport = 1 << 20

	readsAtOnce = 32
)

// Read reads and judges the report of every cluster of the index. A report that can't be trusted is a verdict; an error
// means that the registry didn't answer.
func Read(ctx context.Context, registry oci.Registry, index v1alpha1.FleetIndex) (Summary, error) {
	clusters := make([]Cluster, len(index.Clusters))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOnce)
	for i, published := range index.Clusters {
		group.Go(func() error {
			var err error
			clusters[i], err = readCluster(ctx, registry, index.Fleet, published)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Summary{}, err
	}
	return Summarise(index, clusters), nil
}

func readCluster(ctx context.Context, registry oci.Registry, fleet string, published v1alpha1.IndexCluster) (Cluster, error) {
	report, err := readReport(ctx, registry, published)
	if errors.Is(err, oci.ErrNotFound) {
		return fromIndex(published), nil
	}
	if err == nil && (report.Cluster != published.Name || report.Fleet != fleet) {
		err = fmt.Errorf("%w: it speaks of cluster %q of fleet %q", errUntrusted, report.Cluster, report.Fleet)
	}
	var refusal *signing.Error
	if errors.As(err, &refusal) || errors.Is(err, oci.ErrDamaged) || errors.Is(err, oci.ErrTooLarge) || errors.Is(err, errUntrusted) {
		out := fromIndex(published)
		out.Verdict, out.Reason, out.Message = Untrusted, "UntrustedReport", err.Error()
		return out, nil
	}
	if err != nil {
		return Cluster{}, err
	}
	return Judge(published, report), nil
}

var errUntrusted = errors.New("the report is not trusted")

func readReport(ctx context.Context, registry oci.Registry, published v1alpha1.IndexCluster) (v1alpha1.StatusReport, error) {
	var report v1alpha1.StatusReport
	repo, err := registry.Repository(v1alpha1.StatusRepository(published.Name))
	if err != nil {
		return report, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return report, err
	}
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
