package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob is content with its media type.
type Blob struct {
	MediaType string
	Data      []byte
}

// Descriptor describes the blob by its SHA-256 digest.
func (b Blob) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: digest.FromBytes(b.Data), Size: int64(len(b.Data))}
}

// Artifact is what a manifest with an artifactType holds. Its zero Config is the empty descriptor.
//
// See https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
type Artifact struct {
	Type        string
	Config      Blob
	Layers      []Blob
	Annotations map[string]string
	// Subject is the manifest that this one refers to; none when nil.
	Subject *ocispec.Descriptor
}

// Manifest packs the manifest: the same artifact gives the same bytes.
func (a Artifact) Manifest() Blob { return a.pack(a.layers()) }

func (a Artifact) layers() []ocispec.Descriptor {
	var layers []ocispec.Descriptor
	for _, layer := range a.Layers {
		layers = append(layers, layer.Descriptor())
	}
	return layers
}

func (a Artifact) pack(layers []ocispec.Descriptor) Blob {
	data, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: a.Type,
		Config:       a.config().Descriptor(),
		Layers:       layers,
		Annotations:  a.Annotations,
		Subject:      a.Subject,
	})
	if err != nil {
		panic(err) // a manifest of strings and numbers always marshals
	}
	return Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
}

// Descriptor describes the artifact's manifest.
func (a Artifact) Descriptor() ocispec.Descriptor {
	desc := a.Manifest().Descriptor()
	desc.ArtifactType = a.Type
	return desc
}

func (a Artifact) config() Blob {
	if a.Config.MediaType == "" {
		return Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: ocispec.DescriptorEmptyJSON.Data}
	}
	return a.Config
}

// Push stores the artifact, its manifest last, and points the tags at it. It reports whether the manifest is new; what
// is there already is neither sent nor, where they are right, tagged again.
func Push(ctx context.Context, repo Repository, artifact Artifact, tags ...string) (desc ocispec.Descriptor, created bool, err error) {
	manifest := artifact.Manifest()
	desc = artifact.Descriptor()
	switch exists, err := repo.Exists(ctx, manifest.Descriptor()); {
	case err != nil:
		return desc, false, fmt.Errorf("push to %s: %w", repo, err)
	case exists:
		for _, tag := range tags {
			if err := retag(ctx, repo, manifest, tag); err != nil {
				return desc, false, fmt.Errorf("tag %s:%s: %w", repo, tag, err)
			}
		}
		return desc, false, nil
	}
	for _, blob := range append([]Blob{artifact.config()}, artifact.Layers...) {
		if err := pushBlob(ctx, repo, blob); err != nil {
			return desc, false, fmt.Errorf("push to %s: %w", repo, err)
		}
	}
	if err := repo.Push(ctx, manifest.Descriptor(), manifest.Data, tags...); err != nil {
		return desc, false, fmt.Errorf("push to %s: %w", repo, err)
	}
	return desc, true, nil
}

// PushNew stores an artifact that is certainly not there, such as one with a time in it, and tags it: nothing is asked
// before. It returns the manifest.
func PushNew(ctx context.Context, repo Repository, artifact Artifact, tags ...string) (Blob, error) {
	return pushNew(ctx, repo, artifact, []Blob{artifact.config()}, tags)
}

// PushNext is PushNew for a repository that has an artifact with the same config, so that only what is new is sent. Where
// the registry lost that config, it is sent after all.
func PushNext(ctx context.Context, repo Repository, artifact Artifact, tags ...string) (Blob, error) {
	manifest, err := pushNew(ctx, repo, artifact, nil, tags)
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnauthorized) {
		return manifest, err
	}
	return PushNew(ctx, repo, artifact, tags...)
}

func pushNew(ctx context.Context, repo Repository, artifact Artifact, config []Blob, tags []string) (Blob, error) {
	layers := artifact.layers()
	manifest := artifact.pack(layers)
	for i, layer := range artifact.Layers {
		if err := repo.Push(ctx, layers[i], layer.Data); err != nil {
			return manifest, fmt.Errorf("push to %s: %w", repo, err)
		}
	}
	for _, blob := range config {
		if err := repo.Push(ctx, blob.Descriptor(), blob.Data); err != nil {
			return manifest, fmt.Errorf("push to %s: %w", repo, err)
		}
	}
	if err := repo.Push(ctx, manifest.Descriptor(), manifest.Data, tags...); err != nil {
		return manifest, fmt.Errorf("push to %s: %w", repo, err)
	}
	return manifest, nil
}

func pushBlob(ctx context.Context, repo Repository, blob Blob) error {
	exists, err := repo.Exists(ctx, blob.Descriptor())
	if err != nil || exists {
		return err
	}
	return repo.Push(ctx, blob.Descriptor(), blob.Data)
}

func retag(ctx context.Context, repo Repository, manifest Blob, tag string) error {
	if desc, err := repo.Resolve(ctx, tag); err == nil && desc.Digest == manifest.Descriptor().Digest {
		return nil
	}
	return repo.Push(ctx, manifest.Descriptor(), manifest.Data, tag)
}
