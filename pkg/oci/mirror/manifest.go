package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// maxChildren stops indexes that name manifests without end: real ones have a few dozen.
const maxChildren = 1024

// manifest is what mirroring reads of an image's manifest or an index.
type manifest struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
}

// readManifest reads any manifest and checks that it names nothing that can't be.
func readManifest(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (manifest, error) {
	var m manifest
	data, err := oci.ReadAll(ctx, repo, desc, oci.MaxManifest)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest %s@%s: %w: %w", repo, desc.Digest, oci.ErrDamaged, err)
	}
	if len(m.Layers) > oci.MaxLayers || len(m.Manifests) > maxChildren {
		return m, fmt.Errorf("manifest %s@%s: %w: it names %d layers and %d manifests", repo, desc.Digest, oci.ErrTooLarge, len(m.Layers), len(m.Manifests))
	}
	for _, named := range m.named() {
		if err := named.Digest.Validate(); err != nil || named.Size < 0 {
			return m, fmt.Errorf("manifest %s@%s: %w: it names %q of %d bytes", repo, desc.Digest, oci.ErrDamaged, named.Digest, named.Size)
		}
	}
	return m, nil
}

// named is everything that the manifest names and that is mirrored with it.
func (m manifest) named() []ocispec.Descriptor {
	named := slices.Concat(m.Layers, m.Manifests)
	if m.Config != nil {
		named = append(named, *m.Config)
	}
	return named
}

// artifactType is what a list of referrers shows.
func (m manifest) artifactType() string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}

// blobs are the config and the layers, each once. What lies elsewhere by its own nature (foreign layers) is left out.
func (m manifest) blobs() []Blob {
	var blobs []Blob
	seen := map[digest.Digest]bool{}
	add := func(desc ocispec.Descriptor) {
		if !seen[desc.Digest] && !strings.Contains(desc.MediaType, ".foreign.") {
			seen[desc.Digest] = true
			blobs = append(blobs, Blob{Digest: desc.Digest, Size: desc.Size})
		}
	}
	if m.Config != nil {
		add(*m.Config)
	}
	for _, layer := range m.Layers {
		add(layer)
	}
	return blobs
}

// annotationAbout names the manifest that BuildKit's attestation is about, beside it in the index.
const annotationAbout = "vnd.docker.reference.digest"

// chosen returns the children of an index for the platforms: all when none is named. What belongs to a chosen child,
// and what has no platform, comes along. It is pure.
func (m manifest) chosen(platforms []string) []ocispec.Descriptor {
	if len(platforms) == 0 {
		return m.Manifests
	}
	var out []ocispec.Descriptor
	kept := map[string]bool{}
	for _, child := range m.Manifests {
		if child.Annotations[annotationAbout] == "" && matchesPlatform(child.Platform, platforms) {
			kept[child.Digest.String()] = true
			out = append(out, child)
		}
	}
	for _, child := range m.Manifests {
		if kept[child.Annotations[annotationAbout]] {
			out = append(out, child)
		}
	}
	return out
}

// matchesPlatform compares with os/architecture[/variant]; a variant that isn't named matches all.
func matchesPlatform(p *ocispec.Platform, wanted []string) bool {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return true
	}
	return slices.ContainsFunc(wanted, func(want string) bool {
		parts := strings.Split(want, "/")
		return len(parts) >= 2 && parts[0] == p.OS && parts[1] == p.Architecture && (len(parts) == 2 || parts[2] == p.Variant)
	})
}

// CheckPlatforms refuses what is no platform.
func CheckPlatforms(platforms []string) error {
	for _, platform := range platforms {
		if parts := strings.Split(platform, "/"); len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
			return fmt.Errorf("platform %q: write os/architecture or os/architecture/variant, such as linux/arm64", platform)
		}
	}
	return nil
}
