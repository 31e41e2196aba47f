// Package signing signs descriptors as cosign does and verifies them against a trust policy.
//
// A signature is kept in cosign's tag layout, sha256-<hex>.sig, which stock cosign 2 and 3 verify. Signatures are read
// through [oci.Repository], so that a registry, a mirror, a medium and an agent's own disk are verified by the same
// code, and nothing else is dialled. A [Verifier] neither dials nor reads the clock when it is made.
package signing
