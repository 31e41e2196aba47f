package mirror

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Verifier proves who signed an artifact; signing.Verifier does.
type Verifier interface {
	Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error)
}

// ImageVerifier is a verifier whose policy may speak of container images; signing.Verifier is.
type ImageVerifier interface {
	Verifier
	ImageRules() bool
	VerifyImage(ctx context.Context, reference string, places func(oci.ImageName) ([]oci.Repository, error)) error
}

// A verifier that doesn't satisfy it is never asked about images.
var _ ImageVerifier = (*signing.Verifier)(nil)

// Follower is a verifier that goes by a trust root, which may have newer versions where it is read.
type Follower interface {
	Follow(ctx context.Context, registry oci.Registry) error
}

// Follow brings a verifier to the newest version of the trust root in a registry, or on a medium, before anything is
// verified there. It does nothing for one that has no trust root.
func Follow(ctx context.Context, verifier Verifier, registry oci.Registry) error {
	if follower, ok := verifier.(Follower); ok {
		return follower.Follow(ctx, registry)
	}
	return nil
}
