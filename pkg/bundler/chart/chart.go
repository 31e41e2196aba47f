// Package chart finds Helm charts outside of a source, in OCI registries and classic HTTP repositories, and fetches them.
//
// [Store.Resolve] finds which version of it that means, once, and
// [Store.Fetch] gets that version's bytes: from the cache on disk when they are there, else from where they were found,
// and only with the digest that was recorded.
package chart

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/oci"
)

const (
	// maxChart stops packed charts that fill the memory: it is what a bundle may have.
	maxChart = oci.MaxBundleContent
	// maxIndex stops indexes of chart repositories that fill the memory; the largest public ones have 30 MiB.
	maxIndex = 128 << 20

	folderMode = 0o700
	digestSHA  = "sha256:"
)

// Options say how charts are reached and where they are kept.
type Options struct {
	// CacheDir keeps packed charts by digest; required.
	CacheDir string
	// OCI reaches registries; its CAFile also counts for HTTP repositories.
	OCI oci.Options
	// Credentials returns the user and password for an https URL, both empty where there are none.
	Credentials func(location string) (user, password string, err error)
	// Memory keeps what versions were found; required.
	Memory *resolution.Memory
	// HelmConfig is Helm's repositories.yaml: credentials and certificates by URL, and what @name in a chart's
	// dependencies means. It may be absent.
	HelmConfig string
}

// Store reaches charts. It may be used concurrently.
type Store struct {
	options Options
	helm    helmConfig

	mu      sync.Mutex
	clients map[string]*http.Client
	indexes map[string]*indexOnce
}

type indexOnce struct {
	once  sync.Once
	index *index
	err   error
}

// New returns a store. It sends nothing.
func New(options Options) (*Store, error) {
	config, err := readHelmConfig(options.HelmConfig)
	if err != nil {
		return nil, err
	}
	return &Store{options: options, helm: config, clients: map[string]*http.Client{}, indexes: map[string]*indexOnce{}}, nil
}

// Resolve returns which version a reference means and the digest of its packed chart.
func (s *Store) Resolve(ctx context.Context, ref chartref.Reference) (v1alpha1.Resolution, error) {
	name := resolution.Name{Kind: v1alpha1.ResolvedChart, Reference: ref.String(), Fixed: ref.Exact()}
	found, err := s.options.Memory.Resolve(ctx, name, func(ctx context.Context) (v1alpha1.Resolution, error) {
		switch {
		case strings.HasPrefix(ref.Repository, chartref.OCIScheme):
			return s.resolveOCI(ctx, ref)
		case ref.Repository == "":
			return s.resolveURL(ctx, ref)
		}
		return s.resolveIndexed(ctx, ref)
	})
	if err != nil {
		return found, fmt.Errorf("chart %s: %w", ref, err)
	}
	return found, nil
}

// Fetch returns the packed chart that Resolve found.
func (s *Store) Fetch(ctx context.Context, ref chartref.Reference, found v1alpha1.Resolution) ([]byte, error) {
	if data, ok := s.cached(found.Digest); ok {
		return data, nil
	}
	data, err := s.fetch(ctx, ref, found)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", ref, err)
	}
	if got := sumOf(data); got != found.Digest {
		return nil, fmt.Errorf("chart %s: %w: version %s was %s when it was resolved, and is %s now; if that is meant, publish with --refresh",
			ref, oci.ErrDamaged, found.Version, found.Digest, got)
	}
	if err := s.keep(found.Digest, data); err != nil {
		return nil, fmt.Errorf("chart %s: %w", ref, err)
	}
	return data, nil
}

func (s *Store) fetch(ctx context.Context, ref chartref.Reference, found v1alpha1.Resolution) ([]byte, error) {
	switch {
	case strings.HasPrefix(ref.Repository, chartref.OCIScheme):
		return s.fetchOCI(ctx, ref, found)
	case ref.Repository == "":
		return s.get(ctx, ref.Name, "", maxChart)
	}
	return s.fetchIndexed(ctx, ref, found)
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return digestSHA + hex.EncodeToString(sum[:])
}

func (s *Store) file(digest string) string {
	return filepath.Join(s.options.CacheDir, strings.TrimPrefix(digest, digestSHA)+".tgz")
}

// cached returns a chart from disk, whose bytes are checked: the cache is not trusted.
func (s *Store) cached(want string) ([]byte, bool) {
	if len(want) != len(digestSHA)+2*sha256.Size {
		return nil, false
	}
	data, err := os.ReadFile(s.file(want))
	if err != nil || sumOf(data) != want {
		return nil, false
	}
	return data, true
}

func (s *Store) keep(digest string, data []byte) error {
	if err := os.MkdirAll(s.options.CacheDir, folderMode); err != nil {
		return fmt.Errorf("cache of charts: %w", err)
	}
	if err := renameio.WriteFile(s.file(digest), data, 0o600); err != nil {
		return fmt.Errorf("cache of charts: %w", err)
	}
	return nil
}

// resolveURL reads a packed chart that its URL names: only its bytes tell its version.
func (s *Store) resolveURL(ctx context.Context, ref chartref.Reference) (v1alpha1.Resolution, error) {
	data, err := s.get(ctx, ref.Name, "", maxChart)
	if err != nil {
		return v1alpha1.Resolution{}, err
	}
	found := v1alpha1.Resolution{Digest: sumOf(data)}
	return found, s.keep(found.Digest, data)
}

// Dependency returns the reference of a chart's dependency. Its repository may be Helm's @name or alias:name. The
// error says why there is none.
func (s *Store) Dependency(name, repository, version string, plainHTTP bool) (chartref.Reference, error) {
	for _, prefix := range []string{"@", "alias:"} {
		alias, found := strings.CutPrefix(repository, prefix)
		if !found {
			continue
		}
		if repository = s.helm.url(alias); repository == "" {
			return chartref.Reference{}, fmt.Errorf("dependency %q: no repository %q is known here; write its URL, or run: helm repo add %s URL", name, alias, alias)
		}
	}
	ref := chartref.Reference{Repository: strings.TrimSuffix(repository, "/"), Name: name, Version: version, PlainHTTP: plainHTTP}
	if ref.Repository == "" {
		return ref, fmt.Errorf("dependency %q: is not in charts/, and names no repository", name)
	}
	if err := ref.Check(); err != nil {
		return ref, fmt.Errorf("dependency %q: %w", name, err)
	}
	return ref, nil
}

func sameHost(a, b string) bool {
	one, errOne := url.Parse(a)
	two, errTwo := url.Parse(b)
	return errOne == nil && errTwo == nil && one.Scheme == two.Scheme && strings.EqualFold(one.Host, two.Host)
}

var errNoVersion = errors.New("no such version")
