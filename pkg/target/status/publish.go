package status

import (
	"context"
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Tag is the summary's in the fleet's repository.
const Tag = "status"

// KindSummary is the kind of the document.
const KindSummary = "FleetStatus"

// MaxSummary stops summaries that fill the memory: 100,000 clusters fit.
const MaxSummary = 64 << 20

// document is the summary as it stands in the registry.
type document struct {
	v1alpha1.TypeMeta `json:",inline"`
	Summary
}

// Signer signs a manifest.
type Signer interface {
	Sign(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (created bool, err error)
}

// Verifier checks a manifest's signatures.
type Verifier interface {
	Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error)
}

// Brief leaves out what a dashboard reads from a cluster's own report: objects, drift, problems of each bundle.
func (s Summary) Brief() Summary {
	clusters := make([]Cluster, len(s.Clusters))
	for i, cluster := range s.Clusters {
		cluster.Drift, cluster.Bundles = nil, nil
		clusters[i] = cluster
	}
	s.Clusters = clusters
	return s
}

// Push stores the summary, signed, so that those who watch a fleet read one thing. The one before is removed where the
// registry allows it.
func Push(ctx context.Context, registry oci.Registry, signer Signer, summary Summary) (ocispec.Descriptor, error) {
	data, err := json.Marshal(document{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: KindSummary}, Summary: summary.Brief(),
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	repo, err := registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	before, beforeErr := repo.Resolve(ctx, Tag)
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeSummary, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeSummary, Data: data}}}
	desc, _, err := oci.Push(ctx, repo, artifact)
	if err != nil {
		return desc, fmt.Errorf("publish the fleet's status: %w", err)
	}
	if _, err := signer.Sign(ctx, repo, desc); err != nil {
		return desc, fmt.Errorf("publish the fleet's status: %w", err)
	}
	if err := repo.Push(ctx, desc, artifact.Manifest().Data, Tag); err != nil {
		return desc, fmt.Errorf("publish the fleet's status: %w", err)
	}
	if beforeErr == nil && before.Digest != desc.Digest {
		if signature, err := repo.Resolve(ctx, oci.SignatureTag(before.Digest)); err == nil {
			_ = repo.Delete(ctx, signature) // not every registry allows it, and what stays harms nobody
		}
		_ = repo.Delete(ctx, before)
	}
	return desc, nil
}

// Fetch reads the summary that was pushed last.
func Fetch(ctx context.Context, registry oci.Registry, verifier Verifier) (Summary, error) {
	repo, err := registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return Summary{}, err
	}
	desc, err := repo.Resolve(ctx, Tag)
	if err != nil {
		return Summary{}, fmt.Errorf("read the fleet's status: %w", err)
	}
	if _, err := verifier.Verify(ctx, repo, v1alpha1.RepositoryFleet, desc); err != nil {
		return Summary{}, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return Summary{}, err
	}
	if manifest.ArtifactType != v1alpha1.ArtifactTypeSummary || len(manifest.Layers) != 1 {
		return Summary{}, fmt.Errorf("%s:%s: %w: not a status summary", repo, Tag, oci.ErrDamaged)
	}
	data, err := oci.ReadAll(ctx, repo, manifest.Layers[0], MaxSummary)
	if err != nil {
		return Summary{}, err
	}
	var read document
	err = oci.DecodeJSON(data, KindSummary, &read, &read.TypeMeta)
	return read.Summary, err
}
