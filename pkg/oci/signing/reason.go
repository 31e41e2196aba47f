package signing

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Reason is why a verification failed, or why one signature didn't count: a closed set.
type Reason string

const (
	SignatureMissing    Reason = "SignatureMissing"    // nobody signed
	SignatureMismatch   Reason = "SignatureMismatch"   // the signer signed other bytes, or another artifact
	SignatureBroken     Reason = "SignatureBroken"     // it cannot be read
	KeyNotTrusted       Reason = "KeyNotTrusted"       // signed, but by no key of the rule
	IdentityNotTrusted  Reason = "IdentityNotTrusted"  // signed keyless, but by nobody whom the rule names
	CertificateInvalid  Reason = "CertificateInvalid"  // the certificate is no trusted authority's, or had expired
	TransparencyMissing Reason = "TransparencyMissing" // no trusted transparency log or timestamp vouches for it
	ThresholdNotMet     Reason = "ThresholdNotMet"     // too few different signers
	AttestationMissing  Reason = "AttestationMissing"  // no attestation of the type by a signer of the rule
	AttestationRefused  Reason = "AttestationRefused"  // there is one, but its expression is false
	ImageNotPinned      Reason = "ImageNotPinned"      // a container image is named without its digest
	NoRule              Reason = "NoRule"              // the policy has no rule for the repository
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
	subject := e.Repository
	if e.Digest != "" {
		subject += "@" + e.Digest.String()
	}
	if e.Rule == "" {
		return fmt.Sprintf("%s: %s: %s", subject, e.Reason, e.Message)
	}
	return fmt.Sprintf("%s: %s by rule %q: %s", subject, e.Reason, e.Rule, e.Message)
}
