package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// The fleet index is the builder's memory and its journal. A publish pushes bundles, targets and the new index under
// pub-<n> first: nothing of it is visible. Then it moves the targets' current tags, and the fleet's current tag last.
// So an index pub-<n+1> beyond current is a publish that was interrupted while it moved tags, and is finished first.

// ReadIndex reads the last finished publish. It is [oci.ErrNotFound] before the first one.
func ReadIndex(ctx context.Context, registry oci.Registry, verifier *signing.Verifier) (v1alpha1.FleetIndex, ocispec.Descriptor, error) {
	return readIndex(ctx, registry, verifier, v1alpha1.TagCurrent)
}

func readIndex(ctx context.Context, registry oci.Registry, verifier *signing.Verifier, tag string) (index v1alpha1.FleetIndex, desc ocispec.Descriptor, err error) {
	repo, err := registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return index, desc, err
	}
	if desc, err = repo.Resolve(ctx, tag); err != nil {
		return index, desc, err
	}
	verified, err := verifier.Verify(ctx, repo, v1alpha1.RepositoryFleet, desc)
	if err != nil {
		return index, desc, fmt.Errorf("fleet index: %w", err)
	}
	index, err = oci.FetchFleetIndex(ctx, repo, verified)
	return index, desc, err
}

func publicationTag(n int64) string { return fmt.Sprintf("pub-%d", n) }

func generationTag(n int64) string { return fmt.Sprintf("gen-%d", n) }

// ErrConcurrent says that another publish got in between.
var ErrConcurrent = errors.New("another publish of this fleet finished in the meantime; run again")

// pushIndex stores the index under its own tag, signed: from here on the publish will be finished, by whoever.
func (p *publisher) pushIndex(ctx context.Context, index v1alpha1.FleetIndex) (ocispec.Descriptor, error) {
	data, err := json.Marshal(index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeFleet, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeFleetIndex, Data: data}}}
	// Signed before it is tagged: what a reader finds under pub-<n> is always signed.
	desc, _, err := oci.Push(ctx, repo, artifact)
	if err != nil {
		return desc, err
	}
	if _, err := p.Signer.Sign(ctx, repo, desc); err != nil {
		return desc, err
	}
	tag := publicationTag(index.Publication)
	switch _, err := repo.Resolve(ctx, tag); {
	case err == nil:
		return desc, ErrConcurrent
	case !errors.Is(err, oci.ErrNotFound):
		return desc, err
	}
	return desc, repo.Tag(ctx, desc, tag)
}

// finish moves the tags of every target that differs from the parent, and the fleet's own last.
func (p *publisher) finish(ctx context.Context, parent, index v1alpha1.FleetIndex, desc ocispec.Descriptor) error {
	before := map[string]string{}
	for _, cluster := range parent.Clusters {
		before[cluster.Name] = cluster.Digest
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(p.jobs)
	for _, cluster := range index.Clusters {
		if before[cluster.Name] == cluster.Digest {
			continue
		}
		group.Go(func() error {
			repo, err := p.registry.Repository(v1alpha1.TargetRepository(cluster.Name))
			if err != nil {
				return err
			}
			target, err := repo.Resolve(groupCtx, generationTag(cluster.Generation))
			if err != nil {
				return err
			}
			if target.Digest.String() != cluster.Digest {
				return fmt.Errorf("%s:%s is not what the fleet index says: %w", repo, generationTag(cluster.Generation), ErrConcurrent)
			}
			return repo.Tag(groupCtx, target, v1alpha1.TagCurrent)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("move current tags: %w", err)
	}
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return err
	}
	return repo.Tag(ctx, desc, v1alpha1.TagCurrent)
}
