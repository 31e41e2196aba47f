package mirror

import (
	"context"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// source is a repository that a closure is read from.
type source struct {
	repo   oci.Repository
	name   string // at the receiver
	origin string // full name, where it is elsewhere
}

// attached is a manifest that belongs to another one.
type attached struct {
	kind Kind
	desc ocispec.Descriptor
	tag  string // empty for referrers
}

// attachedTo lists the signatures, attestations and SBOMs of a manifest in both layouts.
func (s *source) attachedTo(ctx context.Context, subject ocispec.Descriptor) ([]attached, error) {
	list, err := oci.ListAttached(ctx, s.repo, subject)
	if err != nil {
		return nil, err
	}
	var found []attached
	for _, one := range list {
		desc := one.Descriptor
		if err := desc.Digest.Validate(); err != nil || !oci.IsManifest(desc.MediaType) {
			return nil, fmt.Errorf("what is attached to %s@%s: %w: %q of type %q", s.repo, subject.Digest, oci.ErrDamaged, desc.Digest, desc.MediaType)
		}
		kind := referrerKind(desc.ArtifactType)
		switch {
		case strings.HasSuffix(one.Tag, ".sig"):
			kind = KindSignature
		case strings.HasSuffix(one.Tag, ".att"):
			kind = KindAttestation
		case strings.HasSuffix(one.Tag, ".sbom"):
			kind = KindSBOM
		}
		found = append(found, attached{kind: kind, desc: desc, tag: one.Tag})
	}
	return found, nil
}

func referrerKind(artifactType string) Kind {
	switch {
	case strings.Contains(artifactType, "sigstore.bundle"), strings.Contains(artifactType, "cosign.artifact.sig"), strings.Contains(artifactType, "notary"):
		return KindSignature
	case strings.Contains(artifactType, "spdx"), strings.Contains(artifactType, "cyclonedx"), strings.Contains(artifactType, "sbom"):
		return KindSBOM
	case strings.Contains(artifactType, "in-toto"), strings.Contains(artifactType, "dsse"):
		return KindAttestation
	}
	return KindReferrer
}
