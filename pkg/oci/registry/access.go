package registry

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/google/renameio/v2"
)

// access sets up who may come in.
func (o Options) access(config *configuration.Configuration) error {
	switch {
	case o.Htpasswd != "" && o.Token != nil:
		return errors.New("users of its own and a token service exclude each other; give one")
	case o.Htpasswd != "":
		// distribution would invent a user when the file is absent.
		if _, err := os.Stat(o.Htpasswd); err != nil {
			return fmt.Errorf("read users: %w; make it with htpasswd -Bc FILE USER", err)
		}
		config.Auth = configuration.Auth{"htpasswd": {"realm": "pinnace registry", "path": o.Htpasswd}}
	case o.Token != nil:
		if o.Token.Realm == "" || o.Token.Service == "" || o.Token.Issuer == "" {
			return errors.New("a token service needs its realm (a URL), the service's name and the issuer's")
		}
		if (o.Token.CertFile == "") == (o.Token.JWKSFile == "") {
			return errors.New("a token service needs the keys that sign its tokens: a file of certificates or one of JSON web keys")
		}
		options := configuration.Parameters{"realm": o.Token.Realm, "service": o.Token.Service, "issuer": o.Token.Issuer}
		if o.Token.CertFile != "" {
			options["rootcertbundle"] = o.Token.CertFile
		} else {
			options["jwks"] = o.Token.JWKSFile
		}
		config.Auth = configuration.Auth{"token": options}
	}
	return nil
}

const (
	secretFile = "pinnace-upload-secret" //nolint:gosec // a file's name, no secret
	secretSize = 32
)

// secret signs the state of uploads. On a folder it is kept there, so that an upload goes on after the registry was
// started anew. Who reads it could only go on with uploads that are known to him otherwise.
func (o Options) secret() (string, error) {
	if o.Root == "" {
		return newSecret(), nil
	}
	path := filepath.Join(o.Root, secretFile)
	data, err := os.ReadFile(path)
	if err == nil && len(data) == 2*secretSize {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the registry's secret: %w", err)
	}
	secret := newSecret()
	if err := renameio.WriteFile(path, []byte(secret), 0o600); err != nil {
		return "", fmt.Errorf("the registry's secret: %w", err)
	}
	return secret, nil
}

func newSecret() string {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // crypto/rand.Read never fails
	return hex.EncodeToString(secret)
}
