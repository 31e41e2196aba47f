package chart

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
	"pinnace.dev/pinnace/pkg/oci"
)

const (
	// maxRedirects stops redirects that lead in a circle.
	maxRedirects = 5
	// httpTimeout ends a download from a server that sends a byte now and then.
	httpTimeout   = 5 * time.Minute
	headerTimeout = 30 * time.Second
	dialTimeout   = 10 * time.Second
	// maxHelmConfig stops a repositories.yaml of Helm that is something else by mistake.
	maxHelmConfig = 4 << 20
)

// index is what counts of a chart repository's index.yaml.
//
// See https://helm.sh/docs/topics/chart_repository/#the-index-file
type index struct {
	Entries map[string][]indexEntry `json:"entries"`
}

type indexEntry struct {
	Version string   `json:"version"`
	URLs    []string `json:"urls"`
	Digest  string   `json:"digest"`
}

// readIndex reads a repository's index, once.
func (s *Store) readIndex(ctx context.Context, repository string) (*index, error) {
	s.mu.Lock()
	once := s.indexes[repository]
	if once == nil {
		once = &indexOnce{}
		s.indexes[repository] = once
	}
	s.mu.Unlock()
	once.once.Do(func() {
		data, err := s.get(ctx, repository+"/index.yaml", repository, maxIndex)
		if err == nil {
			once.index, err = parseIndex(data)
		}
		once.err = err
	})
	return once.index, once.err
}

func parseIndex(data []byte) (*index, error) {
	out := &index{}
	if err := yaml.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("index.yaml: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	return out, nil
}

func (s *Store) find(ctx context.Context, ref chartref.Reference) (indexEntry, error) {
	index, err := s.readIndex(ctx, ref.Repository)
	if err != nil {
		return indexEntry{}, err
	}
	entries := index.Entries[ref.Name]
	if len(entries) == 0 {
		return indexEntry{}, fmt.Errorf("the repository has no chart %q: %w", ref.Name, oci.ErrNotFound)
	}
	versions := make([]string, len(entries))
	for i, entry := range entries {
		versions[i] = entry.Version
	}
	at, err := ref.Highest(versions)
	if err != nil {
		return indexEntry{}, err
	}
	if at < 0 {
		return indexEntry{}, fmt.Errorf("%w: none of %d is within %q: %w", errNoVersion, len(entries), ref.Version, oci.ErrNotFound)
	}
	if len(entries[at].URLs) == 0 {
		return indexEntry{}, fmt.Errorf("the repository has no URL for version %s: %w", versions[at], oci.ErrNotFound)
	}
	return entries[at], nil
}

func (s *Store) resolveIndexed(ctx context.Context, ref chartref.Reference) (v1alpha1.Resolution, error) {
	entry, err := s.find(ctx, ref)
	if err != nil {
		return v1alpha1.Resolution{}, err
	}
	found := v1alpha1.Resolution{Version: entry.Version}
	if sum := strings.TrimPrefix(strings.ToLower(entry.Digest), digestSHA); len(sum) == 2*sha256.Size {
		if _, err := hex.DecodeString(sum); err == nil {
			found.Digest = digestSHA + sum
			return found, nil
		}
	}
	// An index need not say digests: then only the bytes do.
	data, err := s.download(ctx, ref, entry)
	if err != nil {
		return found, err
	}
	found.Digest = sumOf(data)
	return found, s.keep(found.Digest, data)
}

func (s *Store) fetchIndexed(ctx context.Context, ref chartref.Reference, found v1alpha1.Resolution) ([]byte, error) {
	ref.Version = found.Version
	entry, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.download(ctx, ref, entry)
}

func (s *Store) download(ctx context.Context, ref chartref.Reference, entry indexEntry) ([]byte, error) {
	base, err := url.Parse(ref.Repository + "/")
	if err != nil {
		return nil, err
	}
	location, err := base.Parse(entry.URLs[0])
	if err != nil {
		return nil, fmt.Errorf("version %s: its URL in the index: %w", entry.Version, err)
	}
	if location.Scheme != "https" && location.Scheme != base.Scheme {
		return nil, fmt.Errorf("version %s: its URL in the index is %s://, which is less than the repository's own; only https is followed", entry.Version, location.Scheme)
	}
	return s.get(ctx, location.String(), ref.Repository, maxChart)
}

// get reads a URL. Credentials of the repository are sent to its own host only, unless Helm's configuration says
// otherwise.
func (s *Store) get(ctx context.Context, location, repository string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", cmp.Or(s.options.OCI.UserAgent, "pinnace"))
	entry := s.helm.entry(cmp.Or(repository, location))
	client, err := s.client(entry.CAFile)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(request, entry, repository); err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		if cause := (*url.Error)(nil); errors.As(err, &cause) {
			err = cause.Err // the URL of a redirect may hold a token
		}
		return nil, fmt.Errorf("get %s: %w: %w", request.URL.Redacted(), oci.ErrUnreachable, err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := statusError(response.StatusCode); err != nil {
		return nil, fmt.Errorf("get %s: %w", request.URL.Redacted(), err)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("get %s: %w: %w", request.URL.Redacted(), oci.ErrUnreachable, err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("get %s: %w: more than %d bytes", request.URL.Redacted(), oci.ErrTooLarge, limit)
	}
	return data, nil
}

func statusError(code int) error {
	kind := oci.ErrUnreachable
	switch code {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: status %d; put credentials into ~/.netrc, or run: helm repo add", oci.ErrUnauthorized, code)
	case http.StatusNotFound, http.StatusGone:
		kind = oci.ErrNotFound
	}
	return fmt.Errorf("%w: status %d", kind, code)
}

func (s *Store) authorize(request *http.Request, entry helmEntry, repository string) error {
	if entry.Username != "" && (entry.PassCredentialsAll || sameHost(cmp.Or(repository, request.URL.String()), request.URL.String())) {
		request.SetBasicAuth(entry.Username, entry.Password)
		return nil
	}
	if s.options.Credentials == nil {
		return nil
	}
	user, password, err := s.options.Credentials(request.URL.String())
	if err == nil && password != "" {
		request.SetBasicAuth(user, password)
	}
	return err
}

// client returns the HTTP client that trusts a repository's own certificates.
func (s *Store) client(caFile string) (*http.Client, error) {
	caFile = cmp.Or(caFile, s.options.OCI.CAFile)
	s.mu.Lock()
	defer s.mu.Unlock()
	if client := s.clients[caFile]; client != nil {
		return client, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout, transport.TLSHandshakeTimeout = headerTimeout, dialTimeout
	if caFile != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("CA file of a chart repository: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: no PEM certificate in it", caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client := &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	s.clients[caFile] = client
	return client, nil
}

// checkRedirect: net/http drops credentials on the way to another host, but would follow to http.
func checkRedirect(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case via[0].URL.Scheme == "https" && request.URL.Scheme != "https":
		return errors.New("redirected from https to " + request.URL.Scheme)
	}
	return nil
}

// helmConfig is what counts of Helm's repositories.yaml.
type helmConfig struct {
	Repositories []helmEntry `json:"repositories"`
}

type helmEntry struct {
	Name               string `json:"name"`
	URL                string `json:"url"`
	Username           string `json:"username"`
	Password           string `json:"password"`
	CAFile             string `json:"caFile"`
	PassCredentialsAll bool   `json:"pass_credentials_all"`
}

// HelmConfigFile is where Helm keeps its repositories.
func HelmConfigFile(getenv func(string) string, home string) string {
	if file := getenv("HELM_REPOSITORY_CONFIG"); file != "" {
		return file
	}
	if dir := getenv("HELM_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "repositories.yaml")
	}
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "helm", "repositories.yaml")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "helm", "repositories.yaml")
}

func readHelmConfig(file string) (helmConfig, error) {
	var config helmConfig
	if file == "" {
		return config, nil
	}
	opened, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return config, fmt.Errorf("helm's repositories: %w", err)
	}
	defer func() { _ = opened.Close() }()
	data, err := io.ReadAll(io.LimitReader(opened, maxHelmConfig))
	if err != nil {
		return config, fmt.Errorf("helm's repositories: %w", err)
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		return config, fmt.Errorf("helm's repositories: %s is no YAML", file) // the cause may show a password
	}
	return config, nil
}

func (c helmConfig) entry(location string) helmEntry {
	for _, entry := range c.Repositories {
		if base := strings.TrimSuffix(entry.URL, "/"); base == location || strings.HasPrefix(location, base+"/") {
			return entry
		}
	}
	return helmEntry{}
}

func (c helmConfig) url(name string) string {
	for _, entry := range c.Repositories {
		if entry.Name == name {
			return entry.URL
		}
	}
	return ""
}
