// Package evidence reads what a repository holds as proof of who signed a manifest, and checks it against one key or one
// trusted root. It decides nothing: whose proof counts is a trust policy's.
//
// A [Reader] finds a [Proof] in each of the forms that cosign writes: the tag layout (sha256-<hex>.sig and .att), OCI 1.1
// referrers of the same content, and the sigstore bundle, cosign 3's default. Nothing in a proof is trusted before
// [Proof.ByKey] or [Proof.ByCertificate] returned without an error. One that cannot be read hides no other.
package evidence

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"pinnace.dev/pinnace/pkg/oci"
)

// Bounds on what is read: whoever may push to a repository, or runs it, may put anything there.
const (
	// MaxProofs stops one good signature from being hidden among so many bad ones that checking them takes for ever.
	MaxProofs = 256
	// maxPayload stops payloads of simple signing that fill the memory: real ones have a few hundred bytes.
	maxPayload = 64 << 10
	// maxBundle stops sigstore bundles and envelopes that fill the memory: a statement of 256 subjects has 40 KiB, a
	// provenance or an SBOM may have a few MiB.
	maxBundle = 4 << 20
)

// Format is the form that a proof is kept in.
type Format string

const (
	FormatTag      Format = "tag"      // cosign's tag layout
	FormatReferrer Format = "referrer" // the same content as an OCI 1.1 referrer
	FormatBundle   Format = "bundle"   // a sigstore bundle as an OCI 1.1 referrer
)

// PredicateSign is the predicate type of a statement that is a plain signature.
//
// See https://github.com/sigstore/cosign/blob/v2.6.5/specs/BUNDLE_SPEC.md
const PredicateSign = "https://sigstore.dev/cosign/sign/v1"

// Media types, artifact types and annotations that cosign writes.
const (
	MediaTypeBundle       = "application/vnd.dev.sigstore.bundle.v0.3+json"
	MediaTypeStatement    = "application/vnd.in-toto+json"
	ArtifactTypeSignature = "application/vnd.dev.cosign.artifact.sig.v1+json"
	AnnotationPredicate   = "dev.sigstore.bundle.predicateType"
	AnnotationContent     = "dev.sigstore.bundle.content"

	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaTypeEnvelope      = "application/vnd.dsse.envelope.v1+json"
	artifactTypeAttest     = "application/vnd.dev.cosign.artifact.att.v1+json"
	bundlePrefix           = "application/vnd.dev.sigstore.bundle"

	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationChain       = "dev.sigstore.cosign/chain"
	annotationLog         = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// Why a proof doesn't count.
var (
	ErrOtherSigner  = errors.New("signed by somebody else")
	ErrOtherSubject = errors.New("it is for another artifact")
	ErrCertificate  = errors.New("its certificate is not valid")
	ErrTransparency = errors.New("no transparency log that is trusted vouches for it")
	ErrBroken       = errors.New("it cannot be read")
)

// Proof is a signature or an attestation as the repository holds it.
type Proof struct {
	Format   Format
	Manifest oci.Attached

	subject digest.Digest
	content content
	broken  error
}

// content is one of the forms.
type content interface {
	// read brings what is needed into memory, once.
	read(ctx context.Context) error
	byKey(ctx context.Context, subject digest.Digest, key *Key) error
	byCertificate(ctx context.Context, subject digest.Digest, root *Root) (Identity, error)
	// statement returns the in-toto statement; nil for simple signing.
	statement() *Statement
	// annotations returns what the signer added about the subject.
	annotations(subject digest.Digest) map[string]any
	// claims says whether it speaks of the subject.
	claims(subject digest.Digest) error
	// claimed returns the certificate's identity, unchecked.
	claimed() (Identity, error)
	// keyless says that it brings a certificate.
	keyless() bool
}

// Identity is who a certificate was issued to, and by whose word.
type Identity struct {
	Issuer  string
	Subject string
}

// IdentityOf returns whom a certificate, DER, was issued to. Nothing is checked.
func IdentityOf(der []byte) (Identity, error) {
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: certificate: %w", ErrBroken, err)
	}
	summary, err := certificate.SummarizeCertificate(parsed)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return Identity{Issuer: summary.Issuer, Subject: summary.SubjectAlternativeName}, nil
}

func (i Identity) String() string { return i.Subject + " (" + i.Issuer + ")" }

// Read brings the proof into memory. What it says is still to be checked. Transport errors are returned as they are,
// what is broken for good wraps [ErrBroken].
func (p *Proof) Read(ctx context.Context) error {
	if p.broken != nil {
		return fmt.Errorf("%w: %w", ErrBroken, p.broken)
	}
	err := p.content.read(ctx)
	if permanent(err) {
		p.broken = err
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return err
}

// permanent errors are in what the repository holds; asking again changes nothing.
func permanent(err error) bool {
	return errors.Is(err, oci.ErrDamaged) || errors.Is(err, oci.ErrTooLarge) || errors.Is(err, oci.ErrNotFound) || errors.Is(err, ErrBroken)
}

// Keyless says that the proof brings a certificate instead of being signed by a key.
func (p *Proof) Keyless() bool { return p.content.keyless() }

// Predicate returns the type of an attestation's predicate, unverified; [PredicateSign] for a signature.
func (p *Proof) Predicate() string {
	if statement := p.content.statement(); statement != nil {
		return statement.PredicateType
	}
	return PredicateSign
}

// Statement returns the statement of an attestation: trusted only after a check. Nil for simple signing.
func (p *Proof) Statement() *Statement { return p.content.statement() }

// Claims says whether the proof speaks of the subject, unverified. [Proof.Read] comes first.
func (p *Proof) Claims() bool { return p.content.claims(p.subject) == nil }

// ClaimedIdentity returns the identity in the certificate, unverified.
func (p *Proof) ClaimedIdentity() (who Identity, err error) {
	err = guard(func() (err error) {
		who, err = p.content.claimed()
		return err
	})
	return who, err
}

// Annotations returns what the signer added about the subject: trusted only after a check.
func (p *Proof) Annotations(subject digest.Digest) map[string]any {
	return p.content.annotations(subject)
}

// ByKey checks that the key signed exactly this about the subject. [Proof.Read] comes first.
func (p *Proof) ByKey(ctx context.Context, key *Key) error {
	if p.content.keyless() {
		return ErrOtherSigner
	}
	return guard(func() error { return p.content.byKey(ctx, p.subject, key) })
}

// ByCertificate checks the certificate against the trusted root, and that its key signed exactly this about the
// subject. [Proof.Read] comes first.
func (p *Proof) ByCertificate(ctx context.Context, root *Root) (identity Identity, err error) {
	if !p.content.keyless() {
		return Identity{}, ErrOtherSigner
	}
	err = guard(func() (err error) {
		identity, err = p.content.byCertificate(ctx, p.subject, root)
		return err
	})
	return identity, err
}

// guard turns a panic of the libraries over hostile content into an error: cosign asserts types of decoded JSON.
func guard(check func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrBroken, r)
		}
	}()
	return check()
}
