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

// ErrConcurrent says that another publish got in between.
var ErrConcurrent = errors.New("another publish of this fleet got in between, and nothing of this one is seen by any cluster; run it again")

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
	manifest, err := oci.PushNew(ctx, repo, artifact)
	desc := manifest.Descriptor()
	if err != nil {
		return desc, err
	}
	if err := p.Signer.SignNew(ctx, repo, desc); err != nil {
		return desc, err
	}
	return desc, takePublication(ctx, repo, index.Publication, desc)
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
		progress(cluster.Name, target.Changed, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("move current tags: %w", err)
	}
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return err
	}
	if err := repo.Tag(ctx, desc, v1alpha1.TagCurrent); err != nil {
		return err
	}
	return p.finishNewer(ctx, repo, index, desc)
}

// finishNewer looks whether somebody went on from this publish while it moved its tags: then some may have been moved
// back, and are moved again.
func (p *publisher) finishNewer(ctx context.Context, repo oci.Repository, index v1alpha1.FleetIndex, desc ocispec.Descriptor) error {
	_, err := repo.Resolve(ctx, v1alpha1.PublicationTag(index.Publication+1))
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return err
	}
	newer, newerDesc, err := readIndex(ctx, p.registry, verifier, v1alpha1.PublicationTag(index.Publication+1))
	if err != nil {
		return err
	}
	if err := follows(newer, desc); err != nil {
		return err
	}
	return p.finish(ctx, index, newer, newerDesc, nil)
}

// follows checks that an index was made from the one before it.
func follows(index v1alpha1.FleetIndex, before ocispec.Descriptor) error {
	if index.Parent == before.Digest.String() {
		return nil
	}
	return fmt.Errorf("publication %d was made from another fleet index (%s) than the one before it (%s): %w; two registries were mixed, or one was restored from a backup: remove the tag %s of repository %s, and publish again",
		index.Publication, index.Parent, before.Digest, oci.ErrDamaged, v1alpha1.PublicationTag(index.Publication), v1alpha1.RepositoryFleet)
}

// finishTarget moves the tags of a target that an interrupted publish left. The index names it by its digest: another
// publish that gave up may have moved the generation's tag.
func (p *publisher) finishTarget(ctx context.Context, repo oci.Repository, cluster v1alpha1.IndexCluster) error {
	desc, err := repo.Resolve(ctx, cluster.Digest)
	if err != nil {
		return err
	}
	tagged, err := repo.Resolve(ctx, v1alpha1.GenerationTag(cluster.Generation))
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return err
	}
	if err != nil || tagged.Digest != desc.Digest {
		if err := repo.Tag(ctx, desc, v1alpha1.GenerationTag(cluster.Generation)); err != nil {
			return err
		}
	}
	return repo.Tag(ctx, desc, v1alpha1.TagCurrent)
}
