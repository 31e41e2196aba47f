package signing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

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

// OpenEnvelope returns the payload of a DSSE envelope of that type which satisfies the policy's rule for name, and who
// signed it. Only keys sign envelopes. A refusal is an [*Error].
func (v *Verifier) OpenEnvelope(name, payloadType string, data []byte) (payload []byte, signers []string, err error) {
	var envelope dsse.Envelope
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, nil, fmt.Errorf("envelope: %w: %w", oci.ErrDamaged, err)
	}
	if envelope.PayloadType != payloadType {
		return nil, nil, fmt.Errorf("envelope: %w: payload of type %q, want %q", oci.ErrDamaged, envelope.PayloadType, payloadType)
	}
	if payload, err = envelope.DecodeB64Payload(); err != nil {
		return nil, nil, fmt.Errorf("envelope: %w: %w", oci.ErrDamaged, err)
	}
	rules := v.current.Load()
	if rules.trustAll {
		return payload, nil, nil
	}
	refusal := &Error{Reason: NoRule, Repository: name, Message: "no rule of the trust policy matches; add one with match: " + name}
	if rule := rules.rule(name); rule != nil {
		for _, party := range rule.parties {
			if party.key != nil && sigdsse.WrapVerifier(party.key.Verifier()).VerifySignature(bytes.NewReader(data), nil) == nil {
				signers = append(signers, party.name)
			}
		}
		if len(signers) >= rule.threshold {
			return payload, signers, nil
		}
		refusal.Rule, refusal.Reason = rule.match.text, KeyNotTrusted
		refusal.Message = fmt.Sprintf("nobody who counts signed it; it must be signed by %s", rule.signers())
		if len(signers) > 0 {
			refusal.Message = fmt.Sprintf("signed by %s only; it must be signed by %s", strings.Join(signers, ", "), rule.signers())
		}
	}
	if rules.warn != nil {
		rules.warn(refusal)
		return payload, signers, nil
	}
	return nil, nil, refusal
}
