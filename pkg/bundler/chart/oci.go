package chart

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
	"pinnace.dev/pinnace/pkg/oci"
)

// layerTypes are those of charts in registries; the second is of charts that Helm pushed while it was experimental.
var layerTypes = []string{v1alpha1.MediaTypeHelmChart, "application/tar+gzip"}

func (s *Store) repository(ref chartref.Reference) (oci.Repository, error) {
	opts := s.options.OCI
	opts.PlainHTTP = ref.PlainHTTP
	registry, err := oci.Open(strings.TrimPrefix(ref.Repository, chartref.OCIScheme), opts)
	if err != nil {
		return nil, err
	}
	return registry.Repository(ref.Name)
}

// Helm writes the + of a version as _ in tags, which cannot hold it.
//
// See https://helm.sh/docs/topics/registries/
func tagOf(version string) string { return strings.ReplaceAll(version, "+", "_") }

func versionOf(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

func (s *Store) resolveOCI(ctx context.Context, ref chartref.Reference) (v1alpha1.Resolution, error) {
	repo, err := s.repository(ref)
	if err != nil {
		return v1alpha1.Resolution{}, err
	}
	version := ref.Version
	if !ref.Exact() {
		if version, err = chooseTag(ctx, repo, ref); err != nil {
			return v1alpha1.Resolution{}, err
		}
	}
	desc, err := repo.Resolve(ctx, tagOf(version))
	if err != nil {
		return v1alpha1.Resolution{}, err
	}
	layer, err := chartLayer(ctx, repo, desc)
	return v1alpha1.Resolution{Version: version, Digest: layer.Digest.String(), Manifest: desc.Digest.String()}, err
}

func chooseTag(ctx context.Context, repo oci.Repository, ref chartref.Reference) (string, error) {
	tags, err := repo.Tags(ctx)
	if err != nil {
		return "", err
	}
	versions := make([]string, len(tags))
	for i, tag := range tags {
		versions[i] = versionOf(tag)
	}
	at, err := ref.Highest(versions)
	if err != nil {
		return "", err
	}
	if at < 0 {
		return "", fmt.Errorf("%w: none of %d tags is within %q: %w", errNoVersion, len(tags), ref.Version, oci.ErrNotFound)
	}
	return versions[at], nil
}

func chartLayer(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, layer := range manifest.Layers {
		for _, mediaType := range layerTypes {
			if layer.MediaType == mediaType {
				return layer, nil
			}
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s@%s is no Helm chart: it has no layer of type %s", repo, desc.Digest, v1alpha1.MediaTypeHelmChart)
}

func (s *Store) fetchOCI(ctx context.Context, ref chartref.Reference, found v1alpha1.Resolution) ([]byte, error) {
	repo, err := s.repository(ref)
	if err != nil {
		return nil, err
	}
	// By digest: the tag may have moved since.
	manifest, err := digest.Parse(found.Manifest)
	if err != nil {
		return nil, fmt.Errorf("the record of its version holds no digest: %w; publish with --refresh", err)
	}
	desc, err := repo.Resolve(ctx, manifest.String())
	if err != nil {
		return nil, err
	}
	layer, err := chartLayer(ctx, repo, desc)
	if err != nil {
		return nil, err
	}
	return oci.ReadAll(ctx, repo, layer, maxChart)
}
