package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/keyless"
	"pinnace.dev/pinnace/pkg/oci/signing/kms"
)

// signFlags say who signs, and how.
type signFlags struct {
	key           string
	passwordFile  string
	keyless       bool
	identityToken string
	fulcio        string
	rekor         string
	timestamp     string
	trustedRoot   string
	format        string
	annotations   map[string]string
}

var signatureFormats = []string{string(evidence.FormatTag), string(evidence.FormatReferrer), string(evidence.FormatBundle)}

// none turns a service off.
const none = "none"

func (f *signFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "private key to sign with: a file that pinnace keys makes, env://VARIABLE, or a key in a KMS ("+strings.Join(kms.Schemes(), ", ")+")")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	flags.BoolVar(&f.keyless, "keyless", false, "sign as the identity of a token that the CI provides, instead of with a key")
	flags.StringVar(&f.identityToken, "identity-token", "", "OIDC token to sign as, or a file that holds it; what the CI provides when empty")
	flags.StringVar(&f.fulcio, "fulcio-url", keyless.PublicFulcio, "certificate authority for keyless signing")
	flags.StringVar(&f.rekor, "rekor-url", keyless.PublicRekor, "transparency log for keyless signing; none for no log")
	flags.StringVar(&f.timestamp, "timestamp-url", "", "timestamp authority (RFC 3161) for keyless signing; needed without a log")
	flags.StringVar(&f.trustedRoot, "trusted-root", "", "sigstore's trusted_root.json, which verifies what this identity signed before; publish needs it for keyless signing")
	flags.StringVar(&f.format, "signature-format", "", "where signatures are kept: "+strings.Join(signatureFormats, ", ")+"; tag when empty, and bundle for keyless ones")
	flags.StringToStringVarP(&f.annotations, "annotation", "a", nil, "key=value to sign with the digest; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("signature-format", cobra.FixedCompletions(signatureFormats, cobra.ShellCompDirectiveNoFileComp))
}

// given says whether somebody is to sign.
func (f *signFlags) given() bool { return f.key != "" || f.keyless || f.identityToken != "" }

// open returns who signs.
func (f *signFlags) open(ctx context.Context, s *session) (*signing.Signer, error) {
	asIdentity := f.keyless || f.identityToken != ""
	var signer *signing.Signer
	var err error
	switch {
	case asIdentity && f.key != "":
		return nil, usagef("--key and keyless signing exclude each other; give one")
	case asIdentity:
		signer, err = f.openKeyless()
	case f.key == "":
		return nil, usagef("nobody is named to sign; name a key with --key, make one with pinnace keys generate, or sign as a CI's identity with --keyless")
	default:
		signer, err = s.openKey(ctx, f.key, f.passwordFile)
	}
	if err != nil {
		return nil, err
	}
	signer, err = signer.With(signing.SignOptions{Format: evidence.Format(f.format), Annotations: f.annotations})
	if err != nil {
		return nil, usagef("--signature-format: %w", err)
	}
	return signer, nil
}

func (f *signFlags) openKeyless() (*signing.Signer, error) {
	options := keyless.Options{
		Fulcio: f.fulcio, Rekor: f.rekor, Timestamp: f.timestamp, Token: keyless.Token(f.identityToken),
	}
	if f.rekor == none {
		options.Rekor = ""
	}
	if f.trustedRoot != "" {
		data, err := readSmallFile(f.trustedRoot)
		if err != nil {
			return nil, fmt.Errorf("trusted root: %w", err)
		}
		options.TrustedRoot = data
	}
	signer, err := keyless.New(options)
	if err != nil {
		return nil, usagef("%w; see --rekor-url, --timestamp-url and --trusted-root", err)
	}
	return signer, nil
}

// openKey loads a private key: from a file, the environment or a KMS.
func (s *session) openKey(ctx context.Context, key, passwordFile string) (*signing.Signer, error) {
	if kms.Is(key) {
		return kms.Open(ctx, key)
	}
	private, err := readKey(key)
	if err != nil {
		return nil, err
	}
	password, err := s.password(passwordFile, false)
	if err != nil {
		return nil, err
	}
	signer, err := signing.LoadSigner(private, password)
	if errors.Is(err, signing.ErrPassword) {
		return nil, fmt.Errorf("signing key %s: %w; check COSIGN_PASSWORD or --password-file", key, err)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", key, err)
	}
	return signer, nil
}

// readKey reads a key from a file, or from the environment as cosign does: env://VARIABLE.
func readKey(key string) ([]byte, error) {
	if variable, ok := strings.CutPrefix(key, "env://"); ok {
		value, ok := os.LookupEnv(variable)
		if !ok {
			return nil, usagef("signing key %s: the variable %s is not set", key, variable)
		}
		return []byte(value), nil
	}
	if scheme, _, ok := strings.Cut(key, "://"); ok {
		return nil, usagef("signing key %s: %s:// is no KMS that is known; use a file, env:// or one of %s", key, scheme, strings.Join(kms.Schemes(), ", "))
	}
	data, err := readSmallFile(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("signing key %s: %w; make one with: pinnace keys generate", key, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return data, nil
}
