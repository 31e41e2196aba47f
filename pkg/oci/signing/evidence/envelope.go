package evidence

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignoci "github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sig "github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/pkg/oci"
)

// signedLayer is cosign's word for a signature or an attestation.
type signedLayer = cosignoci.Signature

// envelope is an attestation as cosign attest writes it: a DSSE envelope as a layer.
type envelope struct {
	signature
	parsed   *Statement
	envelope dsse.Envelope
	body     []byte
}

func (e *envelope) statement() *Statement { return e.parsed }

func (e *envelope) read(ctx context.Context) error {
	if e.parsed != nil {
		return nil
	}
	data, err := oci.ReadAll(ctx, e.repo, e.layer, maxBundle)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &e.envelope); err != nil {
		return fmt.Errorf("%w: envelope: %w", ErrBroken, err)
	}
	if e.envelope.PayloadType != MediaTypeStatement {
		return fmt.Errorf("%w: envelope of type %q", ErrBroken, e.envelope.PayloadType)
	}
	if e.body, err = e.envelope.DecodeB64Payload(); err != nil {
		return fmt.Errorf("%w: envelope: %w", ErrBroken, err)
	}
	e.payload = data
	e.parsed, err = parseStatement(e.body)
	return err
}

func (e *envelope) claims(subject digest.Digest) error { return e.parsed.claims(subject) }

func (e *envelope) annotations(subject digest.Digest) map[string]any {
	return e.parsed.annotations(subject)
}

func (e *envelope) byKey(ctx context.Context, subject digest.Digest, key *Key) error {
	if !signedBy(e.envelope, e.body, key.verifier) {
		return ErrOtherSigner
	}
	if err := e.claims(subject); err != nil {
		return err
	}
	if key.log == nil {
		return nil
	}
	return e.check(ctx, subject, key.log, key.verifier)
}

// signedBy reports whether one of the envelope's signatures is the key's.
func signedBy(envelope dsse.Envelope, body []byte, key sig.Verifier) bool {
	encoded := dsse.PAE(envelope.PayloadType, body)
	for _, one := range envelope.Signatures {
		raw, err := base64.StdEncoding.DecodeString(one.Sig)
		if err == nil && key.VerifySignature(bytes.NewReader(raw), bytes.NewReader(encoded)) == nil {
			return true
		}
	}
	return false
}

func (e *envelope) byCertificate(ctx context.Context, subject digest.Digest, root *Root) (Identity, error) {
	if err := e.claims(subject); err != nil {
		return Identity{}, err
	}
	if err := e.check(ctx, subject, root, nil); err != nil {
		return Identity{}, err
	}
	return e.claimed()
}

func (e *envelope) check(ctx context.Context, subject digest.Digest, root *Root, key sig.Verifier) error {
	hash, err := v1.NewHash(subject.String())
	if err != nil {
		return err
	}
	options, err := e.options()
	if err != nil {
		return err
	}
	attestation, err := static.NewAttestation(e.payload, options...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	opts := root.checkOpts(key)
	opts.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
	if !opts.IgnoreTlog && e.layer.Annotations[annotationLog] == "" {
		return fmt.Errorf("%w: no log entry", ErrTransparency)
	}
	if opts.UseSignedTimestamps && e.layer.Annotations[annotationTimestamp] == "" {
		return fmt.Errorf("%w: no signed timestamp", ErrTransparency)
	}
	if _, err := cosign.VerifyBlobAttestation(ctx, attestation, hash, opts); err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return nil
}
