package signing

import (
	"bytes"
	"context"
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

// ImportKey turns a private key that another tool made into a key pair in cosign's format. The file is PEM: PKCS #8,
// PKCS #1 or SEC 1, of RSA, ECDSA or Ed25519, not encrypted.
func ImportKey(file string, password []byte) (private, public []byte, err error) {
	keys, err := cosign.ImportKeyPair(file, func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return nil, nil, fmt.Errorf("import key %s: %w; it must be an unencrypted PEM key: openssl pkcs8 -topk8 -nocrypt turns others into one", file, err)
	}
	return keys.PrivateBytes, keys.PublicBytes, nil
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
		return nil, fmt.Errorf("private key: %w; make one with pinnace keys generate or cosign generate-key-pair, or pinnace keys import another", err)
	}
	return NewSigner(context.Background(), key, false)
}

// NewSigner signs with a key that is elsewhere, such as in a KMS. With batches, [Signer.SignAll] signs one statement
// about many artifacts, since each signature costs a request and money.
func NewSigner(ctx context.Context, key signature.SignerVerifier, batches bool) (*Signer, error) {
	public, err := key.PublicKey(publicKeyOptions(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &Signer{key: key, public: pem, batches: batches}, nil
}
