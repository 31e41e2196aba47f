package signing

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// GenerateKey makes a key pair in cosign's format: an encrypted private key and a public one, both PEM.
func GenerateKey(password []byte) (private, public []byte, err error) {
	keys, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	return keys.PrivateBytes, keys.PublicBytes, nil
}

// Signer signs with one private key. It may be used concurrently.
type Signer struct {
	key    signature.SignerVerifier
	public []byte
}

// ErrPassword says that a private key could not be decrypted.
var ErrPassword = errors.New("wrong password")

// LoadSigner reads a private key in cosign's encrypted format.
func LoadSigner(private, password []byte) (*Signer, error) {
	key, err := cosign.LoadPrivateKey(private, password, nil)
	if err != nil {
		if bytes.Contains(private, []byte("ENCRYPTED")) {
			return nil, fmt.Errorf("private key: %w: %w", ErrPassword, err)
		}
		return nil, fmt.Errorf("private key: %w; make one with pinnace keys generate or cosign generate-key-pair", err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &Signer{key: key, public: pem}, nil
}

// PublicKey returns the public key, PEM.
func (s *Signer) PublicKey() []byte { return s.public }

func (s *Signer) sign(ctx context.Context, payload []byte) ([]byte, error) {
	return s.key.SignMessage(bytes.NewReader(payload), optionsOf(ctx)...)
}

// parsePublicKey reads a PEM public key: ECDSA, RSA (2048 bits or more) or Ed25519.
func parsePublicKey(pem []byte) (signature.Verifier, string, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, "", fmt.Errorf("public key: %w", err)
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, "", fmt.Errorf("public key: %w", err)
	}
	canonical, err := cryptoutils.MarshalPublicKeyToPEM(public)
	return verifier, string(canonical), err
}
