package source_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// github is a forge and its API on one TLS server: repositories ask for an installation's token as password.
type github struct {
	*httptest.Server
	forge     *forge
	key       *rsa.PrivateKey
	keyFile   string
	caFile    string
	tokens    atomic.Int64 // how many were issued
	expiresIn time.Duration
}

func newGitHub(t *testing.T) *github {
	t.Helper()
	g := &github{forge: newForge(t, githttp.Options{Username: "x-access-token", Password: "ghs_secret"}), expiresIn: time.Hour}
	var err error
	if g.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	behind, err := url.Parse(g.forge.URL)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v3/repos/{owner}/{name}/installation", g.installation)
	mux.HandleFunc("GET /api/v3/repos/{name}/installation", g.installation)
	mux.HandleFunc("POST /api/v3/app/installations/{id}/access_tokens", g.issue)
	mux.Handle("/", httputil.NewSingleHostReverseProxy(behind))
	g.Server = httptest.NewTLSServer(mux)
	t.Cleanup(g.Close)
	dir := t.TempDir()
	g.caFile, g.keyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "app.pem")
	write(t, g.caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})))
	write(t, g.keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(g.key)})))
	return g
}

func (g *github) proven(w http.ResponseWriter, r *http.Request) bool {
	proof, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	claims := jwt.RegisteredClaims{}
	_, err := jwt.ParseWithClaims(proof, &claims, func(*jwt.Token) (any, error) { return &g.key.PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuedAt(), jwt.WithExpirationRequired(), jwt.WithIssuer("4711"))
	if err == nil && claims.ExpiresAt.Sub(claims.IssuedAt.Time) > 10*time.Minute {
		err = errors.New("'Expiration time' claim ('exp') is too far in the future")
	}
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"message": %q}`, err)
	}
	return err == nil
}

func (g *github) installation(w http.ResponseWriter, r *http.Request) {
	if !g.proven(w, r) {
		return
	}
	if r.PathValue("name") != "web" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"message": "Not Found"}`)
		return
	}
	_, _ = fmt.Fprint(w, `{"id": 99}`)
}

func (g *github) issue(w http.ResponseWriter, r *http.Request) {
	if !g.proven(w, r) {
		return
	}
	if r.PathValue("id") != "99" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	g.tokens.Add(1)
	w.WriteHeader(http.StatusCreated)
	_, _ = fmt.Fprintf(w, `{"token": "ghs_secret", "expires_at": %q}`, time.Now().Add(g.expiresIn).UTC().Format(time.RFC3339))
}

// auth is what the environment gives.
func (g *github) auth(more map[string]string) source.Auth {
	environment := map[string]string{
		"PINNACE_GITHUB_APP_ID": "4711", "PINNACE_GITHUB_APP_PRIVATE_KEY": g.keyFile,
		"PINNACE_GITHUB_APP_HOST": strings.TrimPrefix(g.URL, "https://"), "PINNACE_GIT_CA_FILE": g.caFile,
	}
	for name, value := range more {
		environment[name] = value
	}
	return source.AuthFromEnvironment(func(name string) string { return environment[name] }, "")
}

func TestGitHubApp(t *testing.T) {
	g := newGitHub(t)
	for name, more := range map[string]map[string]string{
		"installation by its repository": nil,
		"installation by its id":         {"PINNACE_GITHUB_APP_INSTALLATION_ID": "99"},
		"API elsewhere":                  {"PINNACE_GITHUB_APP_API": g.URL + "/api/v3/"},
	} {
		t.Run(name, func(t *testing.T) {
			before := g.tokens.Load()
			opts := source.Options{CacheDir: t.TempDir(), Auth: g.auth(more)}
			for range 3 {
				if _, err := checkout(t, g.URL+"/web.git", v1alpha1.GitRef{}, opts); err != nil {
					t.Fatal(err)
				}
			}
			if got := g.tokens.Load() - before; got != 1 {
				t.Errorf("%d tokens were asked for, want 1", got)
			}
		})
	}
	g.expiresIn = time.Minute
	opts, before := source.Options{CacheDir: t.TempDir(), Auth: g.auth(nil)}, g.tokens.Load()
	for range 2 {
		if _, err := checkout(t, g.URL+"/web.git", v1alpha1.GitRef{}, opts); err != nil {
			t.Fatal(err)
		}
	}
	if got := g.tokens.Load() - before; got != 2 {
		t.Errorf("a token that is about to expire was used again: %d were asked for, want 2", got)
	}
}

func TestGitHubAppThatIsRefused(t *testing.T) {
	g := newGitHub(t)
	another := filepath.Join(t.TempDir(), "another.pem")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, another, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tests := []struct {
		name, path string
		more       map[string]string
		want       error
		text       string
	}{
		{"another key", "/web.git", map[string]string{"PINNACE_GITHUB_APP_PRIVATE_KEY": another}, source.ErrUnauthorized, "status 401"},
		{"no key", "/web.git", map[string]string{"PINNACE_GITHUB_APP_PRIVATE_KEY": ""}, source.ErrUnauthorized, "private key"},
		{"not installed", "/other.git", nil, source.ErrNotFound, "Not Found"},
		{"another installation", "/web.git", map[string]string{"PINNACE_GITHUB_APP_INSTALLATION_ID": "1"}, source.ErrNotFound, "status 404"},
		{"another app", "/web.git", map[string]string{"PINNACE_GITHUB_APP_ID": "1"}, source.ErrUnauthorized, "status 401"},
		{"another host gets no token", "/web.git", map[string]string{"PINNACE_GITHUB_APP_HOST": "github.com"}, source.ErrUnauthorized, "PINNACE_GIT_TOKEN"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := checkout(t, g.URL+test.path, v1alpha1.GitRef{}, source.Options{Auth: g.auth(test.more)})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
			if err != nil && strings.Contains(err.Error(), "ghs_secret") {
				t.Error("the error shows the token")
			}
		})
	}
}
