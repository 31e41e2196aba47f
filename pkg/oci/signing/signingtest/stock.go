package signingtest

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Stock verifies as a program does that calls the libraries of cosign and sigstore-go and nothing else, to compare with.
type Stock struct {
	opts     *cosign.CheckOpts
	bundles  *verify.Verifier
	identity verify.PolicyOption
}

// StockByKey trusts one public key, PEM.
func StockByKey(public []byte) (*Stock, error) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(public)
	if err != nil {
		return nil, err
	}
	verifier, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	material := root.NewTrustedPublicKeyMaterialFromMapping(nil)
	s := &Stock{opts: &cosign.CheckOpts{
		SigVerifier: verifier, TrustedMaterial: material, IgnoreTlog: true, IgnoreSCT: true, Offline: true, ClaimVerifier: cosign.SimpleClaimVerifier,
	}, identity: verify.WithKey()}
	anyKey := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return unending{verifier}, nil })
	s.bundles, err = verify.NewVerifier(anyKey, verify.WithNoObserverTimestamps())
	return s, err
}

// StockByIdentity trusts one identity, by a trusted_root.json.
func StockByIdentity(trustedRoot []byte, subject, issuer string) (*Stock, error) {
	material, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, err
	}
	s := &Stock{opts: &cosign.CheckOpts{
		TrustedMaterial: material, IgnoreSCT: true, Offline: true, ClaimVerifier: cosign.IntotoSubjectClaimVerifier,
		Identities: []cosign.Identity{{Subject: subject, Issuer: issuer}},
	}}
	identity, err := verify.NewShortCertificateIdentity(issuer, "", subject, "")
	if err != nil {
		return nil, err
	}
	s.identity = verify.WithCertificateIdentity(identity)
	s.bundles, err = verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	return s, err
}

type unending struct{ signature.Verifier }

func (unending) ValidAtTime(_ time.Time) bool { return true }

// Tagged verifies a reference's signatures under cosign's tag, from the registry.
func (s *Stock) Tagged(ctx context.Context, reference string) error {
	parsed, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	_, _, err = cosign.VerifyImageSignatures(ctx, parsed, s.opts)
	return err
}

// Bundled verifies a reference's sigstore bundles, from the registry.
func (s *Stock) Bundled(ctx context.Context, reference string) error {
	parsed, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	opts := *s.opts
	opts.NewBundleFormat, opts.ClaimVerifier = true, cosign.IntotoSubjectClaimVerifier
	_, _, err = cosign.VerifyImageAttestations(ctx, parsed, &opts)
	return err
}

// Signature verifies a payload of simple signing that is in memory.
func (s *Stock) Signature(ctx context.Context, subject digest.Digest, payload, raw []byte) error {
	signed, err := static.NewSignature(payload, base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		return err
	}
	hash, err := v1.NewHash(subject.String())
	if err != nil {
		return err
	}
	_, err = cosign.VerifyImageSignature(ctx, signed, hash, s.opts)
	return err
}

// Bundle verifies a sigstore bundle that is in memory.
func (s *Stock) Bundle(subject digest.Digest, data []byte) error {
	parsed := &bundle.Bundle{}
	if err := parsed.UnmarshalJSON(data); err != nil {
		return err
	}
	raw, err := hex.DecodeString(subject.Encoded())
	if err != nil {
		return err
	}
	result, err := s.bundles.Verify(parsed, verify.NewPolicy(verify.WithArtifactDigest("sha256", raw), s.identity))
	if err != nil {
		return err
	}
	if result.Statement.GetPredicateType() == "" {
		return errors.New("no statement")
	}
	return nil
}

// Check says what a Stock that trusts nobody would: it helps to find a comparison that compares nothing.
func (s *Stock) Check(ctx context.Context, reference string) error {
	if s.Tagged(ctx, reference) == nil || s.Bundled(ctx, reference) == nil {
		return fmt.Errorf("%s is accepted, although nobody signed it", reference)
	}
	return nil
}
