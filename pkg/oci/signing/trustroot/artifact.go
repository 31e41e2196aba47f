package trustroot

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// A version is one artifact with its two documents as layers. Nobody signs the artifact: its documents are signed.

func versionTag(version int64) string { return fmt.Sprintf("v%d", version) }

func artifact(documents Documents) oci.Artifact {
	return oci.Artifact{Type: v1alpha1.ArtifactTypeTrust, Layers: []oci.Blob{
		{MediaType: v1alpha1.MediaTypeTrustRoot, Data: documents.Root},
		{MediaType: v1alpha1.MediaTypeTrustTargets, Data: documents.Targets},
	}}
}

func fetch(ctx context.Context, repo oci.Repository, version int64) (Documents, error) {
	desc, err := repo.Resolve(ctx, versionTag(version))
	if err != nil {
		return Documents{}, err
	}
	return read(ctx, repo, desc)
}

func read(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (Documents, error) {
	var documents Documents
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return documents, err
	}
	if manifest.ArtifactType != v1alpha1.ArtifactTypeTrust || len(manifest.Layers) != 2 ||
		manifest.Layers[0].MediaType != v1alpha1.MediaTypeTrustRoot || manifest.Layers[1].MediaType != v1alpha1.MediaTypeTrustTargets {
		return documents, fmt.Errorf("%s@%s: %w: it is no trust root", repo, desc.Digest, oci.ErrDamaged)
	}
	if documents.Root, err = oci.ReadAll(ctx, repo, manifest.Layers[0], MaxDocument); err != nil {
		return documents, err
	}
	documents.Targets, err = oci.ReadAll(ctx, repo, manifest.Layers[1], MaxDocument)
	return documents, err
}

// Publish pushes versions in their order, each under its tag, and moves current last. Versions that are there already
// stay; one that is there with other content is refused, because agents may have followed it.
func Publish(ctx context.Context, registry oci.Registry, versions []*Trust) (pushed []int64, err error) {
	repo, err := registry.Repository(v1alpha1.RepositoryTrust)
	if err != nil {
		return nil, err
	}
	for _, trust := range versions {
		tag, packed := versionTag(trust.Version()), artifact(trust.Documents())
		there, err := repo.Resolve(ctx, tag)
		switch {
		case err == nil && there.Digest == packed.Descriptor().Digest:
			continue
		case err == nil:
			return pushed, fmt.Errorf("%s:%s holds another version %d; agents may have followed it: make the next version instead", repo, tag, trust.Version())
		case !errors.Is(err, oci.ErrNotFound):
			return pushed, err
		}
		if _, _, err := oci.Push(ctx, repo, packed, tag); err != nil {
			return pushed, err
		}
		pushed = append(pushed, trust.Version())
	}
	if len(versions) == 0 {
		return nil, nil
	}
	newest := versions[len(versions)-1]
	_, _, err = oci.Push(ctx, repo, artifact(newest.Documents()), v1alpha1.TagCurrent)
	return pushed, err
}

// Fetch reads all versions of a registry's trust root, from the first to current, and verifies each by the one before.
// Who uses the first to trust more must know it by another way.
func Fetch(ctx context.Context, registry oci.Registry) ([]*Trust, error) {
	repo, err := registry.Repository(v1alpha1.RepositoryTrust)
	if err != nil {
		return nil, err
	}
	var versions []*Trust
	for version := int64(1); version <= maxRotations; version++ {
		documents, err := fetch(ctx, repo, version)
		if errors.Is(err, oci.ErrNotFound) && version > 1 {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("trust root version %d: %w", version, err)
		}
		next, err := succeed(versions, documents)
		if err != nil {
			return nil, err
		}
		versions = append(versions, next)
	}
	return versions, nil
}

// succeed verifies the version after those.
func succeed(versions []*Trust, documents Documents) (*Trust, error) {
	if len(versions) > 0 {
		return versions[len(versions)-1].Next(documents)
	}
	first, err := Pin(documents.Root)
	if err != nil {
		return nil, err
	}
	return first.With(documents.Targets)
}
