// Package keyless signs as an identity instead of with a key: a CI's OIDC token is exchanged for a certificate of some
// minutes (Fulcio), and a transparency log (Rekor) or a timestamp authority proves that it was valid then. Only the
// builder imports it.
package keyless

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// The public Sigstore's services.
const (
	PublicFulcio = "https://fulcio.sigstore.dev"
	PublicRekor  = "https://rekor.sigstore.dev"
)

const (
	// attempts at a service that answers with 5xx.
	attempts = 3
	timeout  = 30 * time.Second
	// certificates live for ten minutes; one that is near its end is not used for a signature that takes a while.
	reuse = 5 * time.Minute
)

// Options reach the services.
type Options struct {
	// Fulcio issues certificates; the public one when empty.
	Fulcio string
	// Rekor logs signatures; none when empty, and then Timestamp is needed.
	Rekor string
	// Timestamp is an RFC 3161 authority's URL; none when empty.
	Timestamp string
	// Token returns an OIDC identity token; [Ambient] finds a CI's.
	Token func(ctx context.Context) (string, error)
	// TrustedRoot is sigstore's trusted_root.json. With it, what is signed is verified at once, and what was signed
	// before is recognised by more than its word. May be nil.
	TrustedRoot []byte
}

// New returns a signer that signs as whoever the token names. It reaches nothing yet.
func New(opts Options) (*signing.Signer, error) {
	if opts.Token == nil {
		return nil, errors.New("keyless: no identity token")
	}
	if opts.Rekor == "" && opts.Timestamp == "" {
		return nil, errors.New("keyless: name a transparency log or a timestamp authority: certificates live for minutes, and nothing else says when a signature was made")
	}
	k := &keyless{opts: opts}
	if opts.TrustedRoot != nil {
		var err error
		if k.root, err = evidence.NewRoot(opts.TrustedRoot, opts.Rekor != ""); err != nil {
			return nil, err
		}
	}
	return signing.NewKeylessSigner(k), nil
}

type keyless struct {
	opts Options
	root *evidence.Root

	mu       sync.Mutex
	identity *identity
}

// identity is a key pair with its certificate, used for some minutes.
type identity struct {
	who         evidence.Identity
	token       string
	pair        *sign.EphemeralKeypair
	certificate []byte
	until       time.Time
}

func (k *keyless) Root() *evidence.Root { return k.root }

// Identity is what the token says; Fulcio puts the same into its certificates.
func (k *keyless) Identity(ctx context.Context) (evidence.Identity, error) {
	current, err := k.current(ctx)
	if err != nil {
		return evidence.Identity{}, err
	}
	return current.who, nil
}

// current returns the identity in use, or a new one.
func (k *keyless) current(ctx context.Context) (*identity, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.identity != nil && time.Now().Before(k.identity.until) {
		return k.identity, nil
	}
	token, err := k.opts.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("identity token: %w", err)
	}
	fulcio := k.opts.Fulcio
	if fulcio == "" {
		fulcio = PublicFulcio
	}
	next := &identity{token: token, until: time.Now().Add(reuse)}
	if next.pair, err = sign.NewEphemeralKeypair(nil); err != nil {
		return nil, err
	}
	provider := sign.NewFulcio(&sign.FulcioOptions{BaseURL: strings.TrimSuffix(fulcio, "/"), Timeout: timeout, Retries: attempts})
	next.certificate, err = provider.GetCertificate(ctx, next.pair, &sign.CertificateProviderOptions{IDToken: token})
	if err != nil {
		return nil, fmt.Errorf("certificate from %s: %w", fulcio, err)
	}
	if next.who, err = evidence.IdentityOf(next.certificate); err != nil {
		return nil, fmt.Errorf("certificate from %s: %w", fulcio, err)
	}
	k.identity = next
	return next, nil
}

// issued hands out a certificate that is there already.
type issued []byte

func (i issued) GetCertificate(context.Context, sign.Keypair, *sign.CertificateProviderOptions) ([]byte, error) {
	return i, nil
}

// Bundle signs a statement, and has it logged or timestamped.
func (k *keyless) Bundle(ctx context.Context, statement []byte) ([]byte, error) {
	current, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	options := sign.BundleOptions{Context: ctx, CertificateProvider: issued(current.certificate)}
	if k.opts.Rekor != "" {
		options.TransparencyLogs = []sign.Transparency{
			sign.NewRekor(&sign.RekorOptions{BaseURL: k.opts.Rekor, Timeout: timeout, Retries: attempts}),
		}
	}
	if k.opts.Timestamp != "" {
		options.TimestampAuthorities = []*sign.TimestampAuthority{
			sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: k.opts.Timestamp, Timeout: timeout, Retries: attempts}),
		}
	}
	content := &sign.DSSEData{Data: statement, PayloadType: evidence.MediaTypeStatement}
	bundle, err := sign.Bundle(content, current.pair, options)
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", current.who, err)
	}
	return protojson.Marshal(bundle)
}

// Expiry returns when a token ends, by its own word; the zero time where it doesn't say.
func Expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if json.Unmarshal(data, &claims) != nil || claims.Expires == 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}
