// Package oci keeps Pinnace's artifacts in a registry or in an OCI layout: push, resolve, fetch.
//
// A [Registry] reaches the repositories below one prefix: [Open] a remote one, [OpenLayout] a folder, [NewMemory] for
// tests. An [Artifact] is packed the same way every time, so that the same content has the same digest. What is fetched
// to be used must be [Verified] first; signing makes that proof.
package oci

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci/internal/verified"
)

// Registry reaches the repositories below one prefix.
type Registry interface {
	// Repository returns the repository with that name relative to the prefix, such as "targets/factory-07".
	// It does not touch the network.
	Repository(name string) (Repository, error)
	// String returns the prefix, for people.
	String() string
}

// Repository is one repository. Implementations may be used concurrently.
//
// Errors: [ErrNotFound] for an absent tag, manifest, blob or repository; [ErrUnauthorized] when credentials are missing
// or don't suffice; [ErrUnreachable] when nobody answered after retries; [ErrDamaged] when bytes don't have the digest
// or size that was asked for.
type Repository interface {
	// Resolve returns the descriptor of a tag or of a digest of a manifest. One HEAD request on a registry.
	Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
	// Fetch opens a manifest or blob. The caller reads no more than desc.Size and checks the digest: [ReadAll] does.
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// Push stores a manifest or blob; storing what is there already is no error. A manifest's blobs must be there,
	// and only a manifest may have tags, which point at it afterwards.
	Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error
	// Tag points a tag at a manifest that is there.
	Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error
	// Tags returns all tags, sorted; none when the repository is absent.
	Tags(ctx context.Context) ([]string, error)
	// Delete removes a manifest. ErrUnsupported where the registry doesn't allow it.
	Delete(ctx context.Context, desc ocispec.Descriptor) error
	// String returns the repository's full name, for people.
	String() string
}

// What callers branch on.
var (
	ErrNotFound     = errors.New("not found")
	ErrUnauthorized = errors.New("not authorised")
	ErrUnreachable  = errors.New("unreachable")
	ErrDamaged      = errors.New("damaged content")
	ErrTooLarge     = errors.New("too large")
	ErrNotVerified  = errors.New("not verified")
	ErrUnsupported  = errors.New("not supported by the registry")
)

// Verified is a descriptor plus who signed it. Only signing, below this package, can make one.
type Verified = verified.Descriptor
