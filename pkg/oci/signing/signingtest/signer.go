package signingtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	"github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/pkg/oci/signing"
)

// NewSigner signs with a new key that was never encrypted: keys in cosign's format cost a second each, on purpose.
func NewSigner() (*signing.Signer, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := signature.LoadECDSASignerVerifier(private, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return signing.NewSigner(context.Background(), key, false)
}
