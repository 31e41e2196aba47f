package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Endpoint is a remote repository's HTTP API, for what [Repository] doesn't do: streams that go on where they were cut,
// uploads in pieces, mounts.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
type Endpoint struct {
	repo *remote.Repository
}

// EndpointOf returns the API of a repository on a registry; false for a layout or memory.
func EndpointOf(repo Repository) (Endpoint, bool) {
	if view, ok := repo.(*listedRemote); ok {
		repo = view.remote
	}
	r, ok := repo.(*remoteRepository)
	if !ok {
		return Endpoint{}, false
	}
	return Endpoint{repo: r.Repository}, true
}

// Name is the repository's name on its registry, the prefix included.
func (e Endpoint) Name() string { return e.repo.Reference.Repository }

// Host is the registry's address.
func (e Endpoint) Host() string { return e.repo.Reference.Host() }

// URL returns the address of a path below the repository, such as blobs/uploads/.
func (e Endpoint) URL(path string) *url.URL {
	scheme := "https"
	if e.repo.PlainHTTP {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: e.Host(), Path: "/v2/" + e.Name() + "/" + path}
}

// Location is where a response says that its upload goes on: on this registry, whatever it says. It is nil where it
// doesn't say.
func (e Endpoint) Location(resp *http.Response) (*url.URL, error) {
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, nil
	}
	next, err := resp.Request.URL.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("upload's location %q: %w", location, err)
	}
	// Credentials go to this address: it must be the registry's own. Behind a proxy that ends TLS registries say http, and
	// some leave the port out that is usual.
	want := e.URL("")
	next.Scheme = want.Scheme
	if !strings.EqualFold(withPort(next), withPort(want)) {
		return nil, fmt.Errorf("%w: the registry sends uploads to another host, %s", ErrUnauthorized, next.Host)
	}
	next.Host = want.Host
	return next, nil
}

// withPort is a URL's host with its port, also where that is the scheme's own.
func withPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "http" {
		return u.Host + ":80"
	}
	return u.Host + ":443"
}

// Do sends a request with the registry's credentials, for reading and writing the repository and for reading others
// beside it that are named, relative to the host. The caller closes the response's body.
func (e Endpoint) Do(req *http.Request, others ...string) (*http.Response, error) {
	ctx := auth.AppendRepositoryScope(req.Context(), e.repo.Reference, auth.ActionPull, auth.ActionPush)
	for _, other := range others {
		ctx = auth.AppendRepositoryScope(ctx, registry.Reference{Registry: e.repo.Reference.Registry, Repository: other}, auth.ActionPull)
	}
	return e.send(ctx, req)
}

// Read sends a request with the registry's credentials for reading.
func (e Endpoint) Read(req *http.Request) (*http.Response, error) {
	return e.send(auth.AppendRepositoryScope(req.Context(), e.repo.Reference, auth.ActionPull), req)
}

func (e Endpoint) send(ctx context.Context, req *http.Request) (*http.Response, error) {
	client := e.repo.Client
	if client == nil {
		client = auth.DefaultClient
	}
	return client.Do(req.WithContext(ctx))
}

// OpenHost reaches all repositories of a registry, by their full names. It does not touch the network.
func OpenHost(host string, opts Options) (Registry, error) {
	if err := (registry.Reference{Registry: host}).ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("registry %q: %w", host, err)
	}
	client, _, err := newClient(host, opts)
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w", host, err)
	}
	return &remoteRegistry{host: host, plainHTTP: opts.PlainHTTP, client: client}, nil
}

// maxCatalog stops catalogs that never end.
const maxCatalog = 200_000

// Catalog lists the names of a registry's repositories, relative to the prefix. ErrUnsupported where the registry
// doesn't tell.
//
// See https://distribution.github.io/distribution/spec/api/#catalog
func Catalog(ctx context.Context, reg Registry) ([]string, error) {
	if l, ok := reg.(*layout); ok {
		return l.repositories(), nil
	}
	r, ok := reg.(*remoteRegistry)
	if !ok {
		return nil, fmt.Errorf("list repositories of %s: %w", reg, ErrUnsupported)
	}
	listed := remote.Registry{RepositoryOptions: remote.RepositoryOptions{
		Client: r.client, PlainHTTP: r.plainHTTP, Reference: registry.Reference{Registry: r.host}, MaxMetadataBytes: MaxManifest,
	}}
	var names []string
	err := listed.Repositories(ctx, "", func(page []string) error {
		for _, name := range page {
			if name, ok := strings.CutPrefix(name, r.path+"/"); ok || r.path == "" {
				names = append(names, name)
			}
		}
		if len(names) > maxCatalog {
			return fmt.Errorf("%w: more than %d repositories", ErrTooLarge, maxCatalog)
		}
		return nil
	})
	if response := (*errcode.ErrorResponse)(nil); errors.As(err, &response) {
		return nil, fmt.Errorf("list repositories of %s: %w: %w", reg, ErrUnsupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("list repositories of %s: %w: %w", reg, ErrUnreachable, err)
	}
	return names, nil
}
