// Package verified holds the proof of a verification. It is internal to pkg/oci so that only signing can make one.
package verified

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor is a descriptor plus who signed it. Its zero value proves nothing and is refused.
type Descriptor struct {
	descriptor ocispec.Descriptor
	signers    []string
	rule       string
	evidence   []Attached
}

// Attached is a manifest that belongs to another one: its signatures, attestations or SBOMs.
type Attached struct {
	Descriptor ocispec.Descriptor
	// Tag is the one of cosign's tag layout under which it is found, such as sha256-….sig; empty for a referrer.
	Tag string
}

// New states that the signers' signatures on the descriptor satisfied the rule, and which manifests prove it.
func New(descriptor ocispec.Descriptor, rule string, signers []string, evidence []Attached) Descriptor {
	return Descriptor{descriptor: descriptor, rule: rule, signers: signers, evidence: evidence}
}

// Descriptor returns what was verified.
func (d Descriptor) Descriptor() ocispec.Descriptor { return d.descriptor }

// Signers returns the names of the keys or identities that counted.
func (d Descriptor) Signers() []string { return d.signers }

// Rule returns the policy rule that was satisfied.
func (d Descriptor) Rule() string { return d.rule }

// Evidence returns the manifests that were read to verify it: who copies them along can verify again.
func (d Descriptor) Evidence() []Attached { return d.evidence }

// IsZero reports whether nothing was verified.
func (d Descriptor) IsZero() bool { return d.descriptor.Digest == "" }
