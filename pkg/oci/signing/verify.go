package signing

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/internal/verified"
)

const (
	// maxPayload stops signature payloads that fill the memory: real ones have a few hundred bytes.
	maxPayload = 64 << 10

	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	annotationSignature    = "dev.cosignproject.cosign/signature"
)

// Reason is why a verification failed: a closed set.
type Reason string

const (
	SignatureMissing  Reason = "SignatureMissing"  // nobody signed
	SignatureMismatch Reason = "SignatureMismatch" // the key signed other bytes, or another artifact
	KeyNotTrusted     Reason = "KeyNotTrusted"     // signed, but by no key of the rule
	ThresholdNotMet   Reason = "ThresholdNotMet"   // too few different signers
	NoRule            Reason = "NoRule"            // the policy has no rule for the repository
)

// Error says what was refused, by which rule, and what mends it.
type Error struct {
	Reason     Reason
	Repository string
	Digest     digest.Digest
	Rule       string
	Message    string
}

func (e *Error) Error() string {
	if e.Rule == "" {
		return fmt.Sprintf("%s@%s: %s: %s", e.Repository, e.Digest, e.Reason, e.Message)
	}
	return fmt.Sprintf("%s@%s: %s by rule %q: %s", e.Repository, e.Digest, e.Reason, e.Rule, e.Message)
}

// Verify checks the manifest's signatures in repo against the policy. name is the repository's name relative to the
// fleet's prefix, which the rules match. A refusal is an [*Error]; any other error means that the signatures could not
// be read.
func (v *Verifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	if v.trustAll {
		return verified.New(desc, "unsafe: everything is trusted", nil, nil), nil
	}
	rule := v.rule(name)
	refuse := func(reason Reason, format string, args ...any) (oci.Verified, error) {
		refusal := &Error{Reason: reason, Repository: name, Digest: desc.Digest, Message: fmt.Sprintf(format, args...)}
		if rule != nil {
			refusal.Rule = rule.match
		}
		if v.warn != nil {
			v.warn(refusal)
			return verified.New(desc, "warn: "+refusal.Error(), nil, nil), nil
		}
		return oci.Verified{}, refusal
	}
	if rule == nil {
		return refuse(NoRule, "no rule of the trust policy matches; add one with match: %s", name)
	}
	candidates, err := readSignatures(ctx, repo, desc.Digest)
	switch {
	case errors.Is(err, oci.ErrNotFound) || err == nil && len(candidates) == 0:
		return refuse(SignatureMissing, "sign it with %s (pinnace sign --key …)", rule.signers())
	case err != nil:
		return oci.Verified{}, fmt.Errorf("verify %s@%s: read signatures: %w", repo, desc.Digest, err)
	}

	var counted []string
	var mismatch error
	for _, key := range rule.keys {
		for _, candidate := range candidates {
			err := candidate.verify(ctx, repo, desc.Digest, key.verifier)
			if err == nil {
				counted = append(counted, key.name)
				break
			}
			if errors.Is(err, errOtherArtifact) || errors.Is(err, oci.ErrDamaged) {
				mismatch = fmt.Errorf("signature by %s: %w", key.name, err)
			} else if !errors.Is(err, errNotThisKey) {
				return oci.Verified{}, fmt.Errorf("verify %s@%s: %w", repo, desc.Digest, err)
			}
		}
	}
	switch {
	case len(counted) >= rule.threshold:
		return verified.New(desc, rule.match, counted, nil), nil
	case len(counted) > 0:
		return refuse(ThresholdNotMet, "%d of %d needed signers (%s); sign it with another of %s",
			len(counted), rule.threshold, strings.Join(counted, ", "), rule.signers())
	case mismatch != nil:
		return refuse(SignatureMismatch, "%v; publish it again", mismatch)
	}
	return refuse(KeyNotTrusted, "%d signatures, none by %s; sign it with one of them, or add the signer's key to the rule",
		len(candidates), rule.signers())
}

// candidate is a signature as the registry holds it: nothing in it is trusted yet.
type candidate struct {
	layer ocispec.Descriptor
}

func readSignatures(ctx context.Context, repo oci.Repository, subject digest.Digest) ([]candidate, error) {
	desc, err := repo.Resolve(ctx, oci.SignatureTag(subject))
	if err != nil {
		return nil, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return nil, err
	}
	var candidates []candidate
	for _, layer := range manifest.Layers {
		if layer.MediaType == mediaTypeSimpleSigning {
			candidates = append(candidates, candidate{layer: layer})
		}
	}
	return candidates, nil
}

var (
	errNotThisKey    = errors.New("not signed by this key")
	errOtherArtifact = errors.New("it is for another artifact")
)

// verify checks the signature over its payload, and that the payload speaks of the subject.
func (c candidate) verify(ctx context.Context, repo oci.Repository, subject digest.Digest, key signature.Verifier) error {
	encoded := c.layer.Annotations[annotationSignature]
	if _, err := base64.StdEncoding.DecodeString(encoded); err != nil || encoded == "" {
		return errNotThisKey
	}
	payload, err := oci.ReadAll(ctx, repo, c.layer, maxPayload)
	if errors.Is(err, oci.ErrTooLarge) || errors.Is(err, oci.ErrNotFound) {
		return errNotThisKey
	}
	if err != nil {
		return err
	}
	sig, err := static.NewSignature(payload, encoded)
	if err != nil {
		return errNotThisKey
	}
	hash, err := v1.NewHash(subject.String())
	if err != nil {
		return err
	}
	opts := &cosign.CheckOpts{SigVerifier: key, IgnoreTlog: true, IgnoreSCT: true, Offline: true}
	if _, err := cosign.VerifyImageSignature(ctx, sig, hash, opts); err != nil {
		return errNotThisKey
	}
	// The claim is checked apart, to tell a foreign signature from one that was copied from another artifact. Without
	// it a genuine signature of A would verify on B.
	if err := cosign.SimpleClaimVerifier(sig, hash, nil); err != nil {
		return errOtherArtifact
	}
	return nil
}
