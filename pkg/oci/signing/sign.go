package signing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature"
	sigoptions "github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"pinnace.dev/pinnace/pkg/oci"
)

// Sign signs a manifest in its repository. A signature by the same key that is there already is left alone, and
// signatures by others are kept; it reports whether it wrote one.
func (s *Signer) Sign(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (created bool, err error) {
	existing, err := readSignatures(ctx, repo, desc.Digest)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return false, fmt.Errorf("sign %s@%s: %w", repo, desc.Digest, err)
	}
	for _, candidate := range existing {
		if candidate.verify(ctx, repo, desc.Digest, s.key) == nil {
			return false, nil
		}
	}
	if err := s.append(ctx, repo, desc, existing); err != nil {
		return false, fmt.Errorf("sign %s@%s: %w", repo, desc.Digest, err)
	}
	return true, nil
}

func (s *Signer) append(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, existing []candidate) error {
	// https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md#simple-signing
	statement, err := json.Marshal(payload.SimpleContainerImage{Critical: payload.Critical{
		Identity: payload.Identity{DockerReference: ""},
		Image:    payload.Image{DockerManifestDigest: desc.Digest.String()},
		Type:     payload.CosignSignatureType,
	}})
	if err != nil {
		return err
	}
	raw, err := s.sign(ctx, statement)
	if err != nil {
		return err
	}
	signature, err := static.NewSignature(statement, base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		return err
	}
	signatures, err := mutate.AppendSignatures(empty.Signatures(), false, signature)
	if err != nil {
		return err
	}
	return pushSignatures(ctx, repo, desc, signatures, statement, existing)
}

// image is what of a go-containerregistry image is pushed.
type image interface {
	RawManifest() ([]byte, error)
	RawConfigFile() ([]byte, error)
	MediaType() (types.MediaType, error)
}

// pushSignatures writes the manifest of a new signature, with the layers of the existing ones before it.
func pushSignatures(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, signatures image, statement []byte, existing []candidate) error {
	raw, err := signatures.RawManifest()
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return err
	}
	config, err := signatures.RawConfigFile()
	if err != nil {
		return err
	}
	var before []ocispec.Descriptor
	for _, candidate := range existing {
		before = append(before, candidate.layer)
	}
	manifest.Layers = append(before, manifest.Layers...)
	raw, err = json.Marshal(manifest)
	if err != nil {
		return err
	}
	for _, blob := range []oci.Blob{
		{MediaType: manifest.Config.MediaType, Data: config},
		{MediaType: manifest.Layers[len(manifest.Layers)-1].MediaType, Data: statement},
	} {
		if err := repo.Push(ctx, blob.Descriptor(), blob.Data); err != nil {
			return err
		}
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: raw}
	return repo.Push(ctx, blob.Descriptor(), raw, oci.SignatureTag(desc.Digest))
}

func optionsOf(ctx context.Context) []signature.SignOption {
	return []signature.SignOption{sigoptions.WithContext(ctx)}
}
