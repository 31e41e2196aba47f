package oci

import (
	"bytes"
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	kjson "sigs.k8s.io/json"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Bundle is a bundle artifact whose signatures were verified; its content is read by [Bundle.Content].
type Bundle struct {
	Config v1alpha1.BundleConfig
	Layer  ocispec.Descriptor

	repo Repository
}

// FetchBundle reads a bundle's manifest and config.
func FetchBundle(ctx context.Context, repo Repository, verified Verified) (Bundle, error) {
	manifest, err := fetchManifest(ctx, repo, verified, v1alpha1.ArtifactTypeBundle,
		v1alpha1.MediaTypeBundleContent, v1alpha1.MediaTypeHelmChart)
	if err != nil {
		return Bundle{}, fmt.Errorf("fetch bundle: %w", err)
	}
	bundle := Bundle{Layer: manifest.Layers[0], repo: repo}
	if manifest.Config.MediaType != v1alpha1.MediaTypeBundleConfig {
		return Bundle{}, fmt.Errorf("fetch bundle %s: %w: config of type %q", repo, ErrDamaged, manifest.Config.MediaType)
	}
	data, err := ReadAll(ctx, repo, manifest.Config, MaxConfig)
	if err != nil {
		return Bundle{}, fmt.Errorf("fetch bundle: %w", err)
	}
	if err := DecodeJSON(data, v1alpha1.KindBundleConfig, &bundle.Config, &bundle.Config.TypeMeta); err != nil {
		return Bundle{}, fmt.Errorf("fetch bundle %s@%s: %w", repo, verified.Descriptor().Digest, err)
	}
	return bundle, nil
}

// Content reads the layer, packed: at most [MaxBundleContent] bytes.
func (b Bundle) Content(ctx context.Context) ([]byte, error) {
	if b.repo == nil {
		return nil, fmt.Errorf("read bundle: %w", ErrNotVerified)
	}
	return ReadAll(ctx, b.repo, b.Layer, MaxBundleContent)
}

// FetchTarget reads a target document.
func FetchTarget(ctx context.Context, repo Repository, verified Verified) (v1alpha1.Target, error) {
	var target v1alpha1.Target
	err := fetchDocument(ctx, repo, verified, v1alpha1.ArtifactTypeTarget, v1alpha1.MediaTypeTarget, MaxTarget,
		v1alpha1.KindTarget, &target, &target.TypeMeta)
	return target, err
}

// FetchFleetIndex reads a fleet index.
func FetchFleetIndex(ctx context.Context, repo Repository, verified Verified) (v1alpha1.FleetIndex, error) {
	var index v1alpha1.FleetIndex
	err := fetchDocument(ctx, repo, verified, v1alpha1.ArtifactTypeFleet, v1alpha1.MediaTypeFleetIndex, MaxFleetIndex,
		v1alpha1.KindFleetIndex, &index, &index.TypeMeta)
	return index, err
}

func fetchDocument(ctx context.Context, repo Repository, verified Verified, artifactType, mediaType string, limit int64,
	kind string, into any, meta *v1alpha1.TypeMeta,
) error {
	manifest, err := fetchManifest(ctx, repo, verified, artifactType, mediaType)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", kind, err)
	}
	data, err := ReadAll(ctx, repo, manifest.Layers[0], limit)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", kind, err)
	}
	if err := DecodeJSON(data, kind, into, meta); err != nil {
		return fmt.Errorf("fetch %s %s@%s: %w", kind, repo, verified.Descriptor().Digest, err)
	}
	return nil
}

// fetchManifest reads a manifest of the type with exactly one layer of one of the media types.
func fetchManifest(ctx context.Context, repo Repository, verified Verified, artifactType string, layerTypes ...string) (ocispec.Manifest, error) {
	if verified.IsZero() {
		return ocispec.Manifest{}, fmt.Errorf("%s: %w", repo, ErrNotVerified)
	}
	desc := verified.Descriptor()
	manifest, _, err := ReadManifest(ctx, repo, desc)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	if manifest.ArtifactType != artifactType {
		return ocispec.Manifest{}, fmt.Errorf("%s@%s: %w: artifact type %q, want %q",
			repo, desc.Digest, ErrDamaged, manifest.ArtifactType, artifactType)
	}
	if len(manifest.Layers) != 1 {
		return ocispec.Manifest{}, fmt.Errorf("%s@%s: %w: %d layers, want 1", repo, desc.Digest, ErrDamaged, len(manifest.Layers))
	}
	for _, layerType := range layerTypes {
		if manifest.Layers[0].MediaType == layerType {
			return manifest, nil
		}
	}
	return ocispec.Manifest{}, fmt.Errorf("%s@%s: %w: layer of type %q, want one of %q",
		repo, desc.Digest, ErrDamaged, manifest.Layers[0].MediaType, layerTypes)
}

// maxJSONDepth stops documents nested so deeply that decoding them exhausts the stack or the time.
const maxJSONDepth = 64

// DecodeJSON decodes a document strictly: an unknown field, a duplicate key, other letters' case, another kind or too
// deep nesting is [ErrDamaged]. meta points into the decoded document.
func DecodeJSON(data []byte, kind string, into any, meta *v1alpha1.TypeMeta) error {
	if depth(data) > maxJSONDepth {
		return fmt.Errorf("%w: nested more than %d deep", ErrDamaged, maxJSONDepth)
	}
	strict, err := kjson.UnmarshalStrict(data, into)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(strict) > 0 {
		return fmt.Errorf("%w: %w", ErrDamaged, strict[0])
	}
	if meta.APIVersion != v1alpha1.APIVersion || meta.Kind != kind {
		return fmt.Errorf("%w: apiVersion %q and kind %q, want %q and %q",
			ErrDamaged, meta.APIVersion, meta.Kind, v1alpha1.APIVersion, kind)
	}
	return nil
}

// depth returns how deep objects and lists nest, without decoding.
func depth(data []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case bytes.IndexByte([]byte("{["), c) >= 0:
			depth++
			deepest = max(deepest, depth)
		case bytes.IndexByte([]byte("}]"), c) >= 0:
			depth--
		}
	}
	return deepest
}
