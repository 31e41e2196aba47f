package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

func secretOf(t *testing.T, root string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "pinnace-upload-secret"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// tokenService lets anybody into repositories below fleet/open.
func tokenService(t *testing.T) (realm, jwks string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
	data, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "use": "sig", "kid": "site", "alg": "ES256", "x": encode(key.X), "y": encode(key.Y),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	jwks = filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, data, 0o600); err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var access []map[string]any
		for _, scope := range r.URL.Query()["scope"] {
			kind, rest, _ := strings.Cut(scope, ":")
			name, actions, _ := strings.Cut(rest, ":")
			if strings.HasPrefix(name, "fleet/open") {
				access = append(access, map[string]any{"type": kind, "name": name, "actions": strings.Split(actions, ",")})
			}
		}
		token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"iss": "auth", "aud": "site", "sub": "agent", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
			"nbf": time.Now().Add(-time.Minute).Unix(), "jti": "1", "access": access,
		})
		token.Header["kid"] = "site"
		signed, err := token.SignedString(key)
		if err != nil {
			t.Error(err)
		}
		if err := json.NewEncoder(w).Encode(map[string]string{"token": signed}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(service.Close)
	return service.URL + "/token", jwks
}

// A token service says who may do what in which repository.
func TestTokens(t *testing.T) {
	realm, jwks := tokenService(t)
	server := start(t, registry.Options{Token: &registry.Token{Realm: realm, Service: "site", Issuer: "auth", JWKSFile: jwks}})
	if _, _, err := oci.Push(t.Context(), repository(t, server.Addr, "open/a", oci.Options{}), artifact, "v1"); err != nil {
		t.Errorf("a repository that the token names: %v", err)
	}
	_, _, err := oci.Push(t.Context(), repository(t, server.Addr, "closed", oci.Options{}), artifact, "v1")
	if !errors.Is(err, oci.ErrUnauthorized) {
		t.Errorf("another repository: got %v, want %v", err, oci.ErrUnauthorized)
	}
}
