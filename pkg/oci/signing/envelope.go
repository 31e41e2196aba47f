package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"

	"pinnace.dev/pinnace/pkg/oci"
)

// SignEnvelope puts a payload into a signed DSSE envelope, JSON.
//
// See https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md
func (s *Signer) SignEnvelope(ctx context.Context, payloadType string, payload []byte) ([]byte, error) {
	envelope, err := sigdsse.WrapSigner(s.key, payloadType).SignMessage(bytes.NewReader(payload), optionsOf(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", payloadType, err)
	}
	return envelope, nil
}

// OpenEnvelope returns the payload of a DSSE envelope of that type which the public key, PEM, signed.
func OpenEnvelope(public []byte, payloadType string, data []byte) ([]byte, error) {
	verifier, _, err := parsePublicKey(public)
	if err != nil {
		return nil, err
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, fmt.Errorf("envelope: %w: %w", oci.ErrDamaged, err)
	}
	if envelope.PayloadType != payloadType {
		return nil, fmt.Errorf("envelope: %w: payload of type %q, want %q", oci.ErrDamaged, envelope.PayloadType, payloadType)
	}
	if err := sigdsse.WrapVerifier(verifier).VerifySignature(bytes.NewReader(data), nil); err != nil {
		return nil, &Error{Reason: KeyNotTrusted, Message: err.Error()}
	}
	return envelope.DecodeB64Payload()
}
