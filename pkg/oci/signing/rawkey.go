package signing

import "github.com/sigstore/sigstore/pkg/signature"

// RawKey returns the key itself, for documents that have signatures of their own form. It reports false for a signer
// that has none, because it signs as an identity.
func (s *Signer) RawKey() (signature.SignerVerifier, bool) { return s.key, s.key != nil }
