package evidence

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sig "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"pinnace.dev/pinnace/pkg/oci"
)

// signature is simple signing: a payload that names the subject's digest, with the signature beside it.
//
// See https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md
type signature struct {
	repo    oci.Repository
	layer   ocispec.Descriptor
	subject digest.Digest

	payload []byte
	raw     []byte
	usual   bool // the payload is the one that is made of the subject
}

func (s *signature) keyless() bool { return s.layer.Annotations[annotationCertificate] != "" }

func (s *signature) statement() *Statement { return nil }

func (s *signature) read(ctx context.Context) error {
	if s.payload != nil {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(s.layer.Annotations[annotationSignature])
	if err != nil || len(raw) == 0 {
		return fmt.Errorf("%w: no signature in base64 beside the payload", ErrBroken)
	}
	data := s.made()
	if s.usual = data != nil; !s.usual {
		if data, err = oci.ReadAll(ctx, s.repo, s.layer, maxPayload); err != nil {
			return err
		}
	}
	s.raw, s.payload = raw, data
	return nil
}

// made returns the payload when it is the one that Pinnace or cosign writes for this subject, in this repository and
// without annotations: the layer's digest tells, and there is no need to ask for it. Nil when it is another.
func (s *signature) made() []byte {
	for _, name := range []string{"", s.repo.String()} {
		data, err := Payload(s.subject, name, nil)
		if err == nil && int64(len(data)) == s.layer.Size && digest.FromBytes(data) == s.layer.Digest {
			return data
		}
	}
	return nil
}

// Payload is what simple signing signs: the digest, a repository's name that nobody may rely on, and annotations.
//
// See https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md#simple-signing
func Payload(subject digest.Digest, repository string, annotations map[string]any) ([]byte, error) {
	return json.Marshal(payload.SimpleContainerImage{
		Critical: payload.Critical{
			Identity: payload.Identity{DockerReference: repository},
			Image:    payload.Image{DockerManifestDigest: subject.String()},
			Type:     payload.CosignSignatureType,
		},
		Optional: annotations,
	})
}

func (s *signature) byKey(ctx context.Context, subject digest.Digest, key *Key) error {
	if key.verifier.VerifySignature(bytes.NewReader(s.raw), bytes.NewReader(s.payload)) != nil {
		return ErrOtherSigner
	}
	// Without it a genuine signature of A would verify on B.
	if err := s.claims(subject); err != nil {
		return err
	}
	if key.log == nil {
		return nil
	}
	return s.check(ctx, subject, key.log, key.verifier)
}

// claims checks that what was signed speaks of the subject.
func (s *signature) claims(subject digest.Digest) error {
	if s.usual && subject == s.subject {
		return nil
	}
	var claim payload.SimpleContainerImage
	if err := json.Unmarshal(s.payload, &claim); err != nil {
		return fmt.Errorf("%w: payload: %w", ErrBroken, err)
	}
	if claim.Critical.Type != payload.CosignSignatureType || claim.Critical.Image.DockerManifestDigest != subject.String() {
		return ErrOtherSubject
	}
	return nil
}

func (s *signature) annotations(digest.Digest) map[string]any {
	var claim payload.SimpleContainerImage
	if json.Unmarshal(s.payload, &claim) != nil {
		return nil
	}
	return claim.Optional
}

func (s *signature) byCertificate(ctx context.Context, subject digest.Digest, root *Root) (Identity, error) {
	if err := s.claims(subject); err != nil {
		return Identity{}, err
	}
	if err := s.check(ctx, subject, root, nil); err != nil {
		return Identity{}, err
	}
	return s.claimed()
}

// check lets cosign judge certificate, transparency and time. Keyless when the key is nil.
func (s *signature) check(ctx context.Context, subject digest.Digest, root *Root, key sig.Verifier) error {
	signed, hash, err := s.signed(subject)
	if err != nil {
		return err
	}
	opts := root.checkOpts(key)
	opts.ClaimVerifier = cosign.SimpleClaimVerifier
	if opts.UseSignedTimestamps && s.layer.Annotations[annotationTimestamp] == "" {
		return fmt.Errorf("%w: no signed timestamp", ErrTransparency)
	}
	if !opts.IgnoreTlog && s.layer.Annotations[annotationLog] == "" {
		return fmt.Errorf("%w: no log entry", ErrTransparency)
	}
	if _, err := cosign.VerifyImageSignature(ctx, signed, hash, opts); err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return nil
}

// checkOpts are cosign's options that reach nothing over the network.
func (r *Root) checkOpts(key sig.Verifier) *cosign.CheckOpts {
	return &cosign.CheckOpts{
		SigVerifier: key, TrustedMaterial: r.material, Offline: true,
		IgnoreSCT: !r.certificates, IgnoreTlog: !r.transparency, UseSignedTimestamps: !r.transparency && key == nil,
	}
}

// signed puts what the layer's annotations say into cosign's form.
func (s *signature) signed(subject digest.Digest) (signed signedLayer, hash v1.Hash, err error) {
	if hash, err = v1.NewHash(subject.String()); err != nil {
		return nil, hash, err
	}
	options, err := s.options()
	if err != nil {
		return nil, hash, err
	}
	signed, err = static.NewSignature(s.payload, base64.StdEncoding.EncodeToString(s.raw), options...)
	return signed, hash, err
}

func (s *signature) options() ([]static.Option, error) {
	annotations := s.layer.Annotations
	options := []static.Option{}
	if s.keyless() {
		options = append(options, static.WithCertChain([]byte(annotations[annotationCertificate]), []byte(annotations[annotationChain])))
	}
	if text := annotations[annotationLog]; text != "" {
		var entry cosignbundle.RekorBundle
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			return nil, fmt.Errorf("%w: log entry: %w", ErrBroken, err)
		}
		options = append(options, static.WithBundle(&entry))
	}
	if text := annotations[annotationTimestamp]; text != "" {
		var timestamp cosignbundle.RFC3161Timestamp
		if err := json.Unmarshal([]byte(text), &timestamp); err != nil {
			return nil, fmt.Errorf("%w: timestamp: %w", ErrBroken, err)
		}
		options = append(options, static.WithRFC3161Timestamp(&timestamp))
	}
	return options, nil
}

// claimed is the certificate's.
func (s *signature) claimed() (Identity, error) {
	certificates, err := cryptoutils.UnmarshalCertificatesFromPEM([]byte(s.layer.Annotations[annotationCertificate]))
	if err != nil || len(certificates) == 0 {
		return Identity{}, fmt.Errorf("%w: %w", ErrBroken, errors.Join(errors.New("certificate"), err))
	}
	return IdentityOf(certificates[0].Raw)
}
