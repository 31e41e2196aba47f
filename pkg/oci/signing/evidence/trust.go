package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"io"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sig "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

const minRSABits = 2048

// Key is a public key that may have signed.
type Key struct {
	verifier sig.Verifier
	pem      string
	log      *Root // not nil: signatures must be in one of its logs
	logged   *verify.Verifier
}

// NewKey reads a PEM public key: ECDSA, RSA (2048 bits or more) or Ed25519. With a log, signatures must be in it.
func NewKey(pem []byte, log *Root) (*Key, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if weak, ok := public.(*rsa.PublicKey); ok && weak.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("public key: RSA of %d bits can be broken; use %d or more", weak.N.BitLen(), minRSABits)
	}
	verifier, err := loadVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	canonical, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key := &Key{verifier: verifier, pem: string(canonical), log: log}
	if log == nil {
		return key, nil
	}
	material := &keyed{TrustedMaterial: log.material, key: unexpiring{verifier}}
	key.logged, err = verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate())
	return key, err
}

// loadVerifier takes what cosign makes of a key: SHA-256 or the hash that fits its curve; Ed25519 over a hash or pure.
func loadVerifier(public crypto.PublicKey) (sig.Verifier, error) {
	usual, err := sig.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	fitting, err := sig.LoadDefaultVerifier(public, options.WithED25519ph())
	if err != nil {
		return usual, nil //nolint:nilerr // an unusual size, which has no hash of its own
	}
	if curve, ok := public.(*ecdsa.PublicKey); ok && curve.Curve == elliptic.P256() {
		return usual, nil
	}
	return either{usual, fitting}, nil
}

// either is a key that signs in two ways.
type either struct{ usual, fitting sig.Verifier }

func (e either) PublicKey(opts ...sig.PublicKeyOption) (crypto.PublicKey, error) {
	return e.usual.PublicKey(opts...)
}

func (e either) VerifySignature(signature, message io.Reader, opts ...sig.VerifyOption) error {
	rawSignature, err := io.ReadAll(signature)
	if err != nil {
		return err
	}
	rawMessage, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	if e.usual.VerifySignature(bytes.NewReader(rawSignature), bytes.NewReader(rawMessage), opts...) == nil {
		return nil
	}
	return e.fitting.VerifySignature(bytes.NewReader(rawSignature), bytes.NewReader(rawMessage), opts...)
}

// PEM returns the key in the one form that two equal keys share.
func (k *Key) PEM() string { return k.pem }

// Verifier returns the key for other signed documents.
func (k *Key) Verifier() sig.Verifier { return k.verifier }

// keyed is a trusted root with one key of its own.
type keyed struct {
	root.TrustedMaterial
	key root.TimeConstrainedVerifier
}

func (k *keyed) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) { return k.key, nil }

// Root is a trusted root: certificate authorities, transparency logs and timestamp authorities.
type Root struct {
	material     root.TrustedMaterial
	verifier     *verify.Verifier
	transparency bool
	certificates bool // certificates must be in a certificate log
}

// NewRoot reads sigstore's trusted_root.json. Without transparency, a signed timestamp stands in for the log's. A root
// that lists certificate logs wants certificates to be in one.
func NewRoot(data []byte, transparency bool) (*Root, error) {
	material, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	return newRoot(material, transparency)
}

func newRoot(material root.TrustedMaterial, transparency bool) (*Root, error) {
	r := &Root{material: material, transparency: transparency, certificates: len(material.CTLogs()) > 0}
	// What a statement says is read by whoever asks for it: predicates may have a few MiB.
	wanted := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if r.certificates {
		wanted = append(wanted, verify.WithSignedCertificateTimestamps(1))
	}
	if transparency {
		wanted = append(wanted, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	} else {
		wanted = append(wanted, verify.WithSignedTimestamps(1))
	}
	var err error
	r.verifier, err = verify.NewVerifier(material, wanted...)
	return r, err
}

// unexpiring is a key without a period of its own: the policy that names it is its period.
type unexpiring struct{ sig.Verifier }

func (unexpiring) ValidAtTime(time.Time) bool { return true }
