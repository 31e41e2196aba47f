package evidence

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sigstorebundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"pinnace.dev/pinnace/pkg/oci"
)

// bundled is a sigstore bundle: a DSSE envelope around an in-toto statement, with everything that verifies it offline.
//
// See https://github.com/sigstore/protobuf-specs/blob/v0.5.1/protos/sigstore_bundle.proto
type bundled struct {
	repo  oci.Repository
	layer ocispec.Descriptor

	bundle *sigstorebundle.Bundle
	parsed *Statement
}

// entity is a bundle for one verification, its certificate and envelope decoded once: the library asks for them again
// with every check.
type entity struct {
	*sigstorebundle.Bundle
	material verify.VerificationContent
	envelope verify.SignatureContent
}

func (e *entity) VerificationContent() (_ verify.VerificationContent, err error) {
	if e.material == nil {
		e.material, err = e.Bundle.VerificationContent()
	}
	return e.material, err
}

func (e *entity) SignatureContent() (_ verify.SignatureContent, err error) {
	if e.envelope == nil {
		e.envelope, err = e.Bundle.SignatureContent()
	}
	return e.envelope, err
}

func (b *bundled) keyless() bool {
	if b.bundle == nil {
		return false
	}
	material := b.bundle.GetVerificationMaterial()
	return material.GetCertificate() != nil || material.GetX509CertificateChain() != nil
}

func (b *bundled) statement() *Statement { return b.parsed }

func (b *bundled) read(ctx context.Context) error {
	if b.bundle != nil {
		return nil
	}
	data, err := oci.ReadAll(ctx, b.repo, b.layer, maxBundle)
	if err != nil {
		return err
	}
	return guard(func() error {
		bundle := &sigstorebundle.Bundle{}
		if err := bundle.UnmarshalJSON(data); err != nil {
			return fmt.Errorf("%w: bundle: %w", ErrBroken, err)
		}
		envelope := bundle.GetDsseEnvelope()
		if envelope == nil || envelope.GetPayloadType() != MediaTypeStatement || len(envelope.GetSignatures()) != 1 {
			return fmt.Errorf("%w: bundle: it holds no statement with one signature", ErrBroken)
		}
		if b.parsed, err = parseStatement(envelope.GetPayload()); err != nil {
			return err
		}
		b.bundle = bundle
		return nil
	})
}

func (b *bundled) claims(subject digest.Digest) error { return b.parsed.claims(subject) }

func (b *bundled) annotations(subject digest.Digest) map[string]any {
	return b.parsed.annotations(subject)
}

func (b *bundled) claimed() (Identity, error) {
	content, err := b.bundle.VerificationContent()
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if content.Certificate() == nil {
		return Identity{}, fmt.Errorf("%w: no certificate", ErrBroken)
	}
	return IdentityOf(content.Certificate().Raw)
}

func (b *bundled) byKey(_ context.Context, subject digest.Digest, key *Key) error {
	envelope := b.bundle.GetDsseEnvelope()
	encoded := dsse.PAE(envelope.GetPayloadType(), envelope.GetPayload())
	if key.verifier.VerifySignature(bytes.NewReader(envelope.GetSignatures()[0].GetSig()), bytes.NewReader(encoded)) != nil {
		return ErrOtherSigner
	}
	if err := b.claims(subject); err != nil {
		return err
	}
	if key.log == nil {
		return nil
	}
	policy, err := policyFor(subject, verify.WithKey())
	if err != nil {
		return err
	}
	if _, err := key.logged.Verify(&entity{Bundle: b.bundle}, policy); err != nil {
		return fmt.Errorf("%w: %w", ErrTransparency, err)
	}
	return nil
}

func (b *bundled) byCertificate(_ context.Context, subject digest.Digest, root *Root) (Identity, error) {
	if err := b.claims(subject); err != nil {
		return Identity{}, err
	}
	if root.transparency && len(b.bundle.GetVerificationMaterial().GetTlogEntries()) == 0 {
		return Identity{}, fmt.Errorf("%w: no log entry", ErrTransparency)
	}
	// Who it must be is matched by whoever has the rule, which names patterns that must match the whole.
	policy, err := policyFor(subject, verify.WithoutIdentitiesUnsafe())
	if err != nil {
		return Identity{}, err
	}
	result, err := root.verifier.Verify(&entity{Bundle: b.bundle}, policy)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	summary := result.Signature.Certificate
	return Identity{Issuer: summary.Issuer, Subject: summary.SubjectAlternativeName}, nil
}

func policyFor(subject digest.Digest, option verify.PolicyOption) (verify.PolicyBuilder, error) {
	raw, err := hex.DecodeString(subject.Encoded())
	if err != nil {
		return verify.PolicyBuilder{}, fmt.Errorf("digest %s: %w", subject, err)
	}
	return verify.NewPolicy(verify.WithArtifactDigest(subject.Algorithm().String(), raw), option), nil
}
