package signing

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	sigoptions "github.com/sigstore/sigstore/pkg/signature/options"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// Signer signs with one key, or as one identity. It may be used concurrently.
type Signer struct {
	key     signature.SignerVerifier // nil: keyless
	public  []byte
	keyless Keyless
	batches bool
	options SignOptions
}

// SignOptions say how signatures are kept.
type SignOptions struct {
	// Format is where a signature is kept; cosign's tag layout when empty, and a sigstore bundle for keyless ones.
	Format evidence.Format
	// Annotations are signed with the digest: cosign verify -a asks for them.
	Annotations map[string]string
}

// Keyless signs by certificates that an identity gets for minutes; package keyless makes one.
type Keyless interface {
	// Bundle returns a sigstore bundle, JSON, around an in-toto statement. It may be called concurrently.
	Bundle(ctx context.Context, statement []byte) ([]byte, error)
	// Identity returns whom the certificates are issued to, and by whose word.
	Identity(ctx context.Context) (evidence.Identity, error)
	// Root returns what verifies the certificates; nil where nobody said.
	Root() *evidence.Root
}

// NewKeylessSigner signs as an identity. It always signs in batches.
func NewKeylessSigner(keyless Keyless) *Signer { return &Signer{keyless: keyless, batches: true} }

// With returns the signer with other options.
func (s *Signer) With(options SignOptions) (*Signer, error) {
	switch options.Format {
	case "", evidence.FormatBundle:
	case evidence.FormatTag, evidence.FormatReferrer:
		if s.keyless != nil {
			return nil, fmt.Errorf("format %s: keyless signatures are kept as sigstore bundles, which hold everything that verifies them", options.Format)
		}
	default:
		return nil, fmt.Errorf("format %q is none of tag, referrer and bundle", options.Format)
	}
	changed := *s
	changed.options = options
	return &changed, nil
}

// PublicKey returns the public key, PEM; nil for a keyless signer.
func (s *Signer) PublicKey() []byte { return s.public }

// Verifier trusts what this signer signs, or one of the keys that it follows, and nothing else, for every repository.
func (s *Signer) Verifier(ctx context.Context, previous ...v1alpha1.PublicKey) (*Verifier, error) {
	one, err := s.party(ctx)
	if err != nil {
		return nil, err
	}
	if one.identity != nil && one.identity.root == nil {
		return nil, errors.New("no trusted root verifies what this identity signed before; name a trusted_root.json")
	}
	parties := []party{one}
	for _, public := range previous {
		key, err := evidence.NewKey([]byte(public.PublicKey), nil)
		if err != nil {
			return nil, fmt.Errorf("previous key %s: %w", public.Name, err)
		}
		parties = append(parties, party{name: public.Name, key: key})
	}
	return newVerifierOf(&rules{cache: newCache(), list: []rule{{match: newPattern("**"), threshold: 1, parties: parties}}}), nil
}

func (s *Signer) party(ctx context.Context) (party, error) {
	if s.keyless == nil {
		key, err := evidence.NewKey(s.public, nil)
		return party{name: "this key", key: key}, err
	}
	who, err := s.keyless.Identity(ctx)
	if err != nil {
		return party{}, err
	}
	return party{name: who.String(), identity: &identity{
		root: s.keyless.Root(), issuer: matcher{exact: who.Issuer}, subject: matcher{exact: who.Subject},
	}}, nil
}

func (s *Signer) format() evidence.Format {
	switch {
	case s.options.Format != "":
		return s.options.Format
	case s.keyless != nil:
		return evidence.FormatBundle
	}
	return evidence.FormatTag
}

// Sign signs a manifest in its repository. A signature by the same signer in the same form that is there already is left
// alone, and signatures by others are kept; it reports whether it wrote one.
func (s *Signer) Sign(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (created bool, err error) {
	signed, err := s.signed(ctx, repo, desc, s.format())
	if err == nil && !signed {
		err = s.write(ctx, repo, desc, false)
	}
	if err != nil {
		return false, fmt.Errorf("sign %s@%s: %w", repo, desc.Digest, err)
	}
	return !signed, nil
}

// SignNew signs a manifest that nobody can have signed yet: nothing is asked before. Signatures in cosign's tag layout
// that are there nevertheless are replaced.
func (s *Signer) SignNew(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) error {
	if err := s.write(ctx, repo, desc, true); err != nil {
		return fmt.Errorf("sign %s@%s: %w", repo, desc.Digest, err)
	}
	return nil
}

// Batches reports whether [Signer.SignAll] signs many manifests by one signature, because one takes long.
func (s *Signer) Batches() bool { return s.batches }

// Signed reports whether a signature is there already that [Signer.Sign] or [Signer.SignAll] made and leaves alone.
func (s *Signer) Signed(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (bool, error) {
	signed, err := s.signed(ctx, repo, desc, s.format())
	if err == nil && !signed && s.batches && s.format() != evidence.FormatBundle {
		signed, err = s.signed(ctx, repo, desc, evidence.FormatBundle)
	}
	if err != nil {
		return false, fmt.Errorf("signatures of %s@%s: %w", repo, desc.Digest, err)
	}
	return signed, nil
}

// signed reports whether this signer's signature is there already, in that form and with these annotations.
func (s *Signer) signed(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, format evidence.Format) (bool, error) {
	own, err := s.party(ctx)
	if err != nil {
		return false, err
	}
	reader := evidence.NewReader(repo, desc, func(predicate string) bool { return predicate == evidence.PredicateSign })
	place := reader.Referrers
	if format == evidence.FormatTag {
		place = reader.Tagged
	}
	proofs, err := place(ctx)
	if err != nil {
		return false, err
	}
	rule := rule{threshold: 1, parties: []party{own}}
	for _, proof := range proofs {
		if proof.Format != format {
			continue
		}
		finding, signer, err := s.judge(ctx, &rule, proof)
		if err != nil {
			return false, err
		}
		if signer && finding.Predicate == "" && s.annotated(proof, desc) {
			return true, nil
		}
	}
	return false, nil
}

// judge trusts a certificate by its identity alone where nobody named a root: what is found is only left alone.
func (s *Signer) judge(ctx context.Context, r *rule, proof *evidence.Proof) (Finding, bool, error) {
	if own := r.parties[0].identity; own != nil && own.root == nil {
		if err := proof.Read(ctx); err != nil || !proof.Keyless() {
			return Finding{}, false, ignoreBroken(err)
		}
		who, err := proof.ClaimedIdentity()
		return Finding{}, err == nil && own.matches(who) && proof.Predicate() == evidence.PredicateSign && proof.Claims(), nil
	}
	finding, signer, err := r.judge(ctx, proof)
	return finding, signer != nil, err
}

func ignoreBroken(err error) error {
	if errors.Is(err, evidence.ErrBroken) {
		return nil
	}
	return err
}

// annotated reports whether a signature that is there says all that this one would.
func (s *Signer) annotated(proof *evidence.Proof, desc ocispec.Descriptor) bool {
	have := proof.Annotations(desc.Digest)
	for key, value := range s.options.Annotations {
		if have[key] != value {
			return false
		}
	}
	return true
}

func (s *Signer) write(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor, isNew bool) error {
	if s.format() == evidence.FormatBundle {
		bundle, err := s.bundle(ctx, s.statementOf(desc))
		if err != nil {
			return err
		}
		return attachBundle(ctx, repo, desc, bundle)
	}
	payload, err := evidence.Payload(desc.Digest, "", anyValues(s.options.Annotations))
	if err != nil {
		return err
	}
	raw, err := s.key.SignMessage(bytes.NewReader(payload), optionsOf(ctx)...)
	if err != nil {
		return err
	}
	if s.format() == evidence.FormatReferrer {
		return attachSimple(ctx, repo, desc, payload, raw)
	}
	return tagSimple(ctx, repo, desc, payload, raw, isNew)
}

// statementOf is a signature as cosign 3 writes it: a statement without a predicate, here about one or more artifacts.
func (s *Signer) statementOf(all ...ocispec.Descriptor) evidence.Statement {
	statement := evidence.Statement{Type: evidence.StatementType, PredicateType: evidence.PredicateSign}
	for _, desc := range all {
		about := evidence.StatementOf{Digest: map[string]string{desc.Digest.Algorithm().String(): desc.Digest.Encoded()}}
		for key, value := range s.options.Annotations {
			if about.Annotations == nil {
				about.Annotations = map[string]any{}
			}
			about.Annotations[key] = value
		}
		statement.Subject = append(statement.Subject, about)
	}
	return statement
}

// bundle signs a statement into a sigstore bundle, JSON.
func (s *Signer) bundle(ctx context.Context, statement evidence.Statement) ([]byte, error) {
	data, err := json.Marshal(statement)
	if err != nil {
		return nil, err
	}
	if s.keyless != nil {
		return s.keyless.Bundle(ctx, data)
	}
	envelope, err := s.SignEnvelope(ctx, evidence.MediaTypeStatement, data)
	if err != nil {
		return nil, err
	}
	public, err := s.publicKey()
	if err != nil {
		return nil, err
	}
	return cosignbundle.MakeNewBundle(public, nil, data, envelope, nil, nil)
}

func (s *Signer) publicKey() (crypto.PublicKey, error) {
	return cryptoutils.UnmarshalPEMToPublicKey(s.public)
}

// SignEnvelope puts a payload into a signed DSSE envelope, JSON.
//
// See https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md
func (s *Signer) SignEnvelope(ctx context.Context, payloadType string, payload []byte) ([]byte, error) {
	if s.key == nil {
		return nil, fmt.Errorf("sign %s: a keyless signer has no key for it; name one", payloadType)
	}
	envelope, err := sigdsse.WrapSigner(s.key, payloadType).SignMessage(bytes.NewReader(payload), optionsOf(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", payloadType, err)
	}
	return envelope, nil
}

func optionsOf(ctx context.Context) []signature.SignOption {
	return []signature.SignOption{sigoptions.WithContext(ctx)}
}

func publicKeyOptions(ctx context.Context) []signature.PublicKeyOption {
	return []signature.PublicKeyOption{sigoptions.WithContext(ctx)}
}

// anyValues is nil for none, as cosign writes it.
func anyValues(annotations map[string]string) map[string]any {
	if len(annotations) == 0 {
		return nil
	}
	values := map[string]any{}
	for key, value := range annotations {
		values[key] = value
	}
	return values
}
