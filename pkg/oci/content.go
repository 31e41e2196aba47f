package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// Bounds on what is read from a registry or a layout. A hostile one may announce or send anything.
const (
	// MaxManifest stops manifests that never end: 4 MiB is what registries accept.
	MaxManifest = 4 << 20
	// MaxConfig stops configs that fill the memory.
	MaxConfig = 4 << 20
	// MaxTarget stops targets that fill the memory of a small node.
	MaxTarget = 4 << 20
	// MaxFleetIndex stops indexes that fill the memory: 100,000 clusters fit.
	MaxFleetIndex = 64 << 20
	// MaxBundleContent stops layers that fill the memory or the disk of a small node.
	MaxBundleContent = 64 << 20
	// MaxLayers stops manifests that name thousands of layers.
	MaxLayers = 128
)

// ReadAll reads all of a manifest or blob and checks its size and digest. More than limit bytes is [ErrTooLarge],
// wrong bytes are [ErrDamaged].
func ReadAll(ctx context.Context, repo Repository, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("read %s@%s: %w: %d bytes, at most %d are allowed", repo, desc.Digest, ErrTooLarge, desc.Size, limit)
	}
	if err := validate(desc.Digest); err != nil {
		return nil, fmt.Errorf("read from %s: %w: digest %q: %w", repo, ErrDamaged, desc.Digest, err)
	}
	reader, err := repo.Fetch(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("read %s@%s: %w", repo, desc.Digest, err)
	}
	defer func() { _ = reader.Close() }()
	return readBounded(repo, reader, desc, limit)
}

func readBounded(repo Repository, reader io.Reader, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("read %s@%s: %w: %d bytes, at most %d are allowed", repo, desc.Digest, ErrTooLarge, desc.Size, limit)
	}
	data, err := readExactly(reader, desc)
	if err != nil {
		if damaged(err) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return nil, fmt.Errorf("read %s@%s: %w", repo, desc.Digest, err)
	}
	return data, nil
}

// maxFirstBuffer stops sizes that are announced and never sent from filling the memory; more is allocated as it comes.
const maxFirstBuffer = 1 << 20

// readExactly reads as many bytes as the descriptor says and checks their digest, as oras-go's content.ReadAll does.
// That matches a regular expression with every digest, which takes longer than to hash a manifest.
func readExactly(reader io.Reader, desc ocispec.Descriptor) ([]byte, error) {
	if err := validate(desc.Digest); err != nil {
		return nil, err
	}
	var buffer bytes.Buffer
	buffer.Grow(int(min(desc.Size, maxFirstBuffer)) + bytes.MinRead)
	if _, err := buffer.ReadFrom(io.LimitReader(reader, desc.Size+1)); err != nil {
		return nil, err
	}
	data := buffer.Bytes()
	switch {
	case int64(len(data)) > desc.Size:
		return nil, content.ErrTrailingData
	case int64(len(data)) < desc.Size:
		return nil, io.ErrUnexpectedEOF
	case desc.Digest.Algorithm().FromBytes(data) != desc.Digest:
		return nil, content.ErrMismatchedDigest
	}
	return data, nil
}

// validate is [digest.Digest.Validate], with a short way for the digests that nearly all are.
func validate(d digest.Digest) error {
	encoded, ok := strings.CutPrefix(string(d), string(digest.SHA256)+":")
	if ok && len(encoded) == digest.SHA256.Size()*2 && strings.Trim(encoded, "0123456789abcdef") == "" {
		return nil
	}
	return d.Validate()
}

// damaged says that what came is wrong, not that it didn't come whole because the connection was cut.
func damaged(err error) bool {
	if errors.Is(err, ErrUnreachable) {
		return false
	}
	return errors.Is(err, content.ErrMismatchedDigest) || errors.Is(err, content.ErrTrailingData) ||
		errors.Is(err, content.ErrInvalidDescriptorSize) || errors.Is(err, io.ErrUnexpectedEOF)
}

// ReadManifest reads an image manifest and checks its form.
func ReadManifest(ctx context.Context, repo Repository, desc ocispec.Descriptor) (ocispec.Manifest, []byte, error) {
	var manifest ocispec.Manifest
	data, err := ReadAll(ctx, repo, desc, MaxManifest)
	if err != nil {
		return manifest, nil, err
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return manifest, nil, fmt.Errorf("manifest %s@%s: %w: %w", repo, desc.Digest, ErrDamaged, err)
	}
	switch {
	case manifest.MediaType != ocispec.MediaTypeImageManifest:
		return manifest, nil, fmt.Errorf("manifest %s@%s: %w: media type %q, want %q",
			repo, desc.Digest, ErrDamaged, manifest.MediaType, ocispec.MediaTypeImageManifest)
	case len(manifest.Layers) > MaxLayers:
		return manifest, nil, fmt.Errorf("manifest %s@%s: %w: %d layers, at most %d are allowed",
			repo, desc.Digest, ErrTooLarge, len(manifest.Layers), MaxLayers)
	}
	return manifest, data, nil
}
