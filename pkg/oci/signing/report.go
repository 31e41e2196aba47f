package signing

import (
	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// Report says what a verification found: which rule decided, who signed, and why the other signatures don't count.
type Report struct {
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	Verified   bool          `json:"verified"`
	Rule       string        `json:"rule,omitempty"`
	Threshold  int           `json:"threshold,omitempty"`
	// Signers are the names of the keys and identities that counted.
	Signers []string `json:"signers,omitempty"`
	// Reason and Message are set when it isn't verified.
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Findings has one entry for each signature and attestation that was looked at.
	Findings []Finding `json:"findings,omitempty"`
}

// Finding is one signature or attestation.
type Finding struct {
	Format evidence.Format `json:"format"`
	// Manifest is the digest of the manifest that holds it.
	Manifest digest.Digest `json:"manifest"`
	// Predicate is an attestation's type; empty for a signature.
	Predicate string `json:"predicate,omitempty"`
	// Signer is the rule's name of who signed, Identity what a certificate says; known only for those that verify.
	Signer   string `json:"signer,omitempty"`
	Identity string `json:"identity,omitempty"`
	Counts   bool   `json:"counts"`
	Reason   Reason `json:"reason,omitempty"`
	Message  string `json:"message,omitempty"`
}

// Refusal is the report as an error; nil when it is verified.
func (r Report) Refusal() *Error {
	if r.Verified {
		return nil
	}
	return &Error{Reason: r.Reason, Repository: r.Repository, Digest: r.Digest, Rule: r.Rule, Message: r.Message}
}
