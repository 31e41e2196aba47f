package signing

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// OpenEnvelope returns the payload of a DSSE envelope of that type which the public key, PEM, signed.
func OpenEnvelope(public []byte, payloadType string, data []byte) ([]byte, error) {
	key, err := evidence.NewKey(public, nil)
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
	if err := sigdsse.WrapVerifier(key.Verifier()).VerifySignature(bytes.NewReader(data), nil); err != nil {
		return nil, &Error{Reason: KeyNotTrusted, Message: err.Error()}
	}
	return envelope.DecodeB64Payload()
}
