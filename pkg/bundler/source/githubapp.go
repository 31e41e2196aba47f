package source

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// githubUser is what GitHub takes with an installation's token.
	githubUser = "x-access-token"
	githubHost = "github.com"
	githubAPI  = "https://api.github.com"

	// jwtValidity is below GitHub's limit of ten minutes; jwtSkew is for clocks that are ahead.
	jwtValidity = 5 * time.Minute
	jwtSkew     = time.Minute
	// tokenMargin renews a token before it expires: a fetch may take a while.
	tokenMargin = 5 * time.Minute
	// maxAPIAnswer stops answers of a forge that never end.
	maxAPIAnswer = 1 << 20
	apiTimeout   = 30 * time.Second
)

// GitHubApp gets tokens as an installation of a GitHub App, of github.com or of a GitHub Enterprise Server. It may be
// used concurrently; a token is kept until shortly before it expires.
//
// See https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
type GitHubApp struct {
	// AppID is the app's id, or its client id. InstallationID is looked up by the repository when empty.
	AppID, InstallationID string
	// PrivateKeyFile is PEM.
	PrivateKeyFile string
	// Host is github.com when empty. API is https://api.github.com when empty, for another Host https://Host/api/v3.
	Host, API string
	// CAFile holds certificates that the API's server may be signed by, besides the system's.
	CAFile string

	mu     sync.Mutex
	tokens map[string]installationToken // by installation, or by repository where that is looked up
}

type installationToken struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// GitHubAppFromEnvironment reads PINNACE_GITHUB_APP_ID, PINNACE_GITHUB_APP_INSTALLATION_ID,
// PINNACE_GITHUB_APP_PRIVATE_KEY (a file), PINNACE_GITHUB_APP_HOST, PINNACE_GITHUB_APP_API and PINNACE_GIT_CA_FILE. It is
// nil without an id.
func GitHubAppFromEnvironment(getenv func(string) string) *GitHubApp {
	app := &GitHubApp{
		AppID: getenv("PINNACE_GITHUB_APP_ID"), InstallationID: getenv("PINNACE_GITHUB_APP_INSTALLATION_ID"),
		PrivateKeyFile: getenv("PINNACE_GITHUB_APP_PRIVATE_KEY"),
		Host:           getenv("PINNACE_GITHUB_APP_HOST"), API: getenv("PINNACE_GITHUB_APP_API"), CAFile: getenv("PINNACE_GIT_CA_FILE"),
	}
	if app.AppID == "" {
		return nil
	}
	return app
}

func (g *GitHubApp) host() string {
	if g.Host == "" {
		return githubHost
	}
	return strings.ToLower(g.Host)
}

func (g *GitHubApp) api() string {
	switch {
	case g.API != "":
		return strings.TrimSuffix(g.API, "/")
	case g.host() == githubHost:
		return githubAPI
	}
	return "https://" + g.host() + "/api/v3"
}

// covers reports whether the app is for the repository: tokens are sent to its host only, and over https only.
func (g *GitHubApp) covers(to address) bool {
	return g != nil && to.scheme == "https" && to.host == g.host() && to.pass == ""
}

// token returns an installation's token for the repository.
func (g *GitHubApp) token(ctx context.Context, to address) (string, error) {
	fail := func(kind, err error) error {
		return &Error{URL: to.identity, Kind: kind, Err: fmt.Errorf("GitHub App %s: %w", g.AppID, err), Act: "check PINNACE_GITHUB_APP_ID and PINNACE_GITHUB_APP_PRIVATE_KEY, and that the app is installed for the repository"}
	}
	repository := strings.TrimPrefix(to.identity, to.scheme+"://"+to.host+"/")
	id := g.InstallationID
	if id == "" {
		id = "repository " + repository
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.tokens[id]; known.Token != "" && time.Until(known.ExpiresAt) > tokenMargin {
		return known.Token, nil
	}
	signed, err := g.sign(time.Now())
	if err != nil {
		return "", fail(ErrUnauthorized, err)
	}
	client, err := g.client()
	if err != nil {
		return "", fail(ErrUnreachable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	installation := g.InstallationID
	if installation == "" {
		var found struct {
			ID json.Number `json:"id"`
		}
		if kind, err := call(ctx, client, http.MethodGet, g.api()+"/repos/"+escapePath(repository)+"/installation", signed, &found); err != nil {
			return "", fail(kind, err)
		}
		installation = found.ID.String()
	}
	var token installationToken
	kind, err := call(ctx, client, http.MethodPost, g.api()+"/app/installations/"+url.PathEscape(installation)+"/access_tokens", signed, &token)
	if err == nil && token.Token == "" {
		kind, err = ErrUnauthorized, errors.New("the answer holds no token")
	}
	if err != nil {
		return "", fail(kind, err)
	}
	if g.tokens == nil {
		g.tokens = map[string]installationToken{}
	}
	g.tokens[id] = token
	return token.Token, nil
}

func escapePath(name string) string {
	segments := strings.Split(name, "/")
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return strings.Join(segments, "/")
}

// sign makes the app's own proof, with which it asks for tokens.
func (g *GitHubApp) sign(now time.Time) (string, error) {
	pem, err := os.ReadFile(g.PrivateKeyFile)
	if err != nil {
		return "", fmt.Errorf("private key: %w", err)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM(pem)
	if err != nil {
		return "", fmt.Errorf("private key %s: %w", g.PrivateKeyFile, err)
	}
	return jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: g.AppID, IssuedAt: jwt.NewNumericDate(now.Add(-jwtSkew)), ExpiresAt: jwt.NewNumericDate(now.Add(jwtValidity)),
	}).SignedString(key)
}

func (g *GitHubApp) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if g.CAFile != "" {
		pem, err := os.ReadFile(g.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates for git: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	// The proof is for the API's own address only.
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// call sends one request and says which kind of failure it is.
func call(ctx context.Context, client *http.Client, method, location, proof string, into any) (kind, err error) {
	request, err := http.NewRequestWithContext(ctx, method, location, nil)
	if err != nil {
		return ErrRefused, err
	}
	request.Header.Set("Authorization", "Bearer "+proof)
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	response, err := client.Do(request)
	if err != nil {
		return ErrUnreachable, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAPIAnswer))
	if err != nil {
		return ErrUnreachable, err
	}
	switch {
	case response.StatusCode/100 == 2:
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(into); err != nil {
			return ErrUnreachable, fmt.Errorf("%s: %w", location, err)
		}
		return nil, nil
	case response.StatusCode == http.StatusNotFound:
		kind = ErrNotFound
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		kind = ErrUnauthorized
	default:
		kind = ErrUnreachable
	}
	var problem struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(data, &problem)
	return kind, fmt.Errorf("%s %s: status %d %s", method, location, response.StatusCode, problem.Message)
}
