package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
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

// finish moves the tags of every target that differs from the parent, and the fleet's own last. Manifests that are
// known, by cluster, are not read again.
func (p *publisher) finish(ctx context.Context, parent, index v1alpha1.FleetIndex, desc ocispec.Descriptor, manifests map[string]oci.Blob) error {
	before := map[string]string{}
	for _, cluster := range parent.Clusters {
		before[cluster.Name] = cluster.Digest
	}
	changed := slices.DeleteFunc(slices.Clone(index.Clusters), func(cluster v1alpha1.IndexCluster) bool {
		return before[cluster.Name] == cluster.Digest
	})
	progress := p.stage("finish", len(changed))
	err := p.each(ctx, len(changed), func(ctx context.Context, i int) error {
		cluster := changed[i]
		repo, err := p.registry.Repository(v1alpha1.TargetRepository(cluster.Name))
		if err != nil {
			return err
		}
		if manifest, known := manifests[cluster.Name]; known {
			err = repo.Push(ctx, manifest.Descriptor(), manifest.Data, v1alpha1.TagCurrent)
		} else {
			err = p.finishTarget(ctx, repo, cluster)
		}
		progress(cluster.Name, target.Changed)
		return err
	})
	if err != nil {
		return fmt.Errorf("move current tags: %w", err)
	}
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return err
	}
	return repo.Tag(ctx, desc, v1alpha1.TagCurrent)
}

// finishTarget moves the tags of a target that an interrupted publish left. The index names it by its digest: another
// publish that gave up may have moved the generation's tag.
func (p *publisher) finishTarget(ctx context.Context, repo oci.Repository, cluster v1alpha1.IndexCluster) error {
	desc, err := repo.Resolve(ctx, cluster.Digest)
	if err != nil {
		return err
	}
	tagged, err := repo.Resolve(ctx, generationTag(cluster.Generation))
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return err
	}
	if err != nil || tagged.Digest != desc.Digest {
		if err := repo.Tag(ctx, desc, generationTag(cluster.Generation)); err != nil {
			return err
		}
	}
	return repo.Tag(ctx, desc, v1alpha1.TagCurrent)
}
