package signing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// simpleManifest lets cosign write the manifest and config of one signature, and pushes its blobs.
func simpleManifest(ctx context.Context, repo oci.Repository, statement, raw []byte) (ocispec.Manifest, []byte, error) {
	var manifest ocispec.Manifest
	signature, err := static.NewSignature(statement, base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		return manifest, nil, err
	}
	signatures, err := mutate.AppendSignatures(empty.Signatures(), false, signature)
	if err != nil {
		return manifest, nil, err
	}
	data, err := signatures.RawManifest()
	if err != nil {
		return manifest, nil, err
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return manifest, nil, err
	}
	config, err := signatures.RawConfigFile()
	if err != nil {
		return manifest, nil, err
	}
	blob := oci.Blob{MediaType: manifest.Layers[0].MediaType, Data: statement}
	return manifest, config, repo.Push(ctx, blob.Descriptor(), blob.Data)
}

// tagSimple adds a signature to those under cosign's tag.
func tagSimple(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, statement, raw []byte, isNew bool) error {
	tag := oci.SignatureTag(desc.Digest)
	var before ocispec.Manifest
	if !isNew {
		switch _, data, err := oci.FetchTagged(ctx, repo, tag); {
		case errors.Is(err, oci.ErrNotFound):
		case err != nil:
			return err
		default:
			if err := json.Unmarshal(data, &before); err != nil {
				return err
			}
		}
	}
	manifest, config, err := simpleManifest(ctx, repo, statement, raw)
	if err != nil {
		return err
	}
	manifest.Layers = slices.Concat(before.Layers, manifest.Layers)
	if err := pushConfig(ctx, repo, manifest.Config.MediaType, config); err != nil {
		return err
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
	return repo.Push(ctx, blob.Descriptor(), data, tag)
}

// attachSimple adds a signature as an OCI 1.1 referrer, as cosign's experimental mode does.
func attachSimple(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, statement, raw []byte) error {
	manifest, config, err := simpleManifest(ctx, repo, statement, raw)
	if err != nil {
		return err
	}
	manifest.Config.MediaType = evidence.ArtifactTypeSignature
	if err := pushConfig(ctx, repo, manifest.Config.MediaType, config); err != nil {
		return err
	}
	return attach(ctx, repo, desc, manifest)
}

func pushConfig(ctx context.Context, repo oci.Repository, mediaType string, config []byte) error {
	blob := oci.Blob{MediaType: mediaType, Data: config}
	return repo.Push(ctx, blob.Descriptor(), config)
}

// attachBundle adds a sigstore bundle as an OCI 1.1 referrer, as cosign 3 does.
func attachBundle(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, bundle []byte) error {
	layer := oci.Blob{MediaType: evidence.MediaTypeBundle, Data: bundle}
	config := oci.Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: ocispec.DescriptorEmptyJSON.Data}
	for _, blob := range []oci.Blob{layer, config} {
		if err := repo.Push(ctx, blob.Descriptor(), blob.Data); err != nil {
			return err
		}
	}
	return attach(ctx, repo, desc, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: evidence.MediaTypeBundle, Config: config.Descriptor(), Layers: []ocispec.Descriptor{layer.Descriptor()},
		Annotations: map[string]string{
			evidence.AnnotationContent: "dsse-envelope", evidence.AnnotationPredicate: evidence.PredicateSign,
		},
	})
}

func attach(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, manifest ocispec.Manifest) error {
	manifest.Subject = &ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
	return oci.PushAttached(ctx, repo, blob.Descriptor(), data)
}
