package oci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	// maxTags stops tag listings that never end.
	maxTags = 100_000
	// headerTimeout stops a registry that accepts connections and says nothing.
	headerTimeout = 30 * time.Second
	dialTimeout   = 10 * time.Second
)

// Options reach a remote registry. The zero value uses https, the system's roots and the user's Docker credentials.
type Options struct {
	PlainHTTP bool
	// CAFile is a PEM file with roots beside the system's.
	CAFile string
	// DockerConfig is a file in the format of Docker's config.json; the user's when empty. Credential helpers work.
	DockerConfig string
	UserAgent    string
	// TokenHosts are hosts, other than the registry's own, that it may name to ask for tokens.
	TokenHosts []string
	// Stall is how long a body may keep this client waiting; DefaultStall when zero.
	Stall time.Duration
	// Connections bounds those to the registry at the same time, where thousands share this client; unbounded when zero.
	Connections int
}

// Open returns the registry below prefix, such as registry.example.com:5000/fleet. It does not touch the network.
func Open(prefix string, opts Options) (Registry, error) {
	prefix = strings.TrimSuffix(strings.TrimPrefix(prefix, "oci://"), "/")
	if strings.Contains(prefix, "://") {
		return nil, fmt.Errorf("registry %q: leave the scheme out; plain http is an option of its own", prefix)
	}
	host, path, ok := strings.Cut(prefix, "/")
	if !ok || path == "" {
		return nil, fmt.Errorf("registry %q: name a path below the host, such as %s/fleet", prefix, host)
	}
	if err := checkRepository(path); err != nil {
		return nil, fmt.Errorf("registry %q: %w", prefix, err)
	}
	if err := (registry.Reference{Registry: host}).ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("registry %q: %w", prefix, err)
	}
	client, busy, err := newClient(host, opts)
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w", prefix, err)
	}
	return &remoteRegistry{host: host, path: path, plainHTTP: opts.PlainHTTP, client: client, busy: busy}, nil
}

func newClient(host string, opts Options) (*auth.Client, *busy, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = headerTimeout
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	transport.MaxIdleConnsPerHost = max(32, opts.Connections)
	transport.MaxIdleConns = max(transport.MaxIdleConns, opts.Connections)
	transport.MaxConnsPerHost = opts.Connections
	transport.MaxResponseHeaderBytes = maxHeaderBytes
	busy := &busy{next: transport}
	if opts.CAFile != "" {
		roots, err := newRotatingRoots(opts.CAFile, transport)
		if err != nil {
			return nil, nil, err
		}
		busy.next = roots
	}
	store, err := newRotatingCredentials(opts.DockerConfig)
	if err != nil {
		return nil, nil, err
	}
	guard := newGuard(&retry.Transport{Base: busy, Policy: func() retry.Policy { return patience{} }}, host, opts)
	client := &auth.Client{
		Client:     &http.Client{Transport: guard, CheckRedirect: guard.checkRedirect},
		Cache:      auth.NewCache(),
		Credential: store.Get,
		// The guard knows which hosts may issue tokens: sites have theirs on private addresses.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
	client.SetUserAgent(cmp.Or(opts.UserAgent, "pinnace"))
	return client, busy, nil
}

func openCredentials(path string) (credentials.Store, error) {
	if path == "" {
		store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Docker's credentials: %w", err)
		}
		return store, nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("registry credentials: %w", err)
	}
	store, err := credentials.NewStore(path, credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("registry credentials %s: %w", path, err)
	}
	return store, nil
}

type remoteRegistry struct {
	host, path string
	plainHTTP  bool
	client     *auth.Client
	busy       *busy
	// unlisted is until when (Unix seconds) the referrers API is known to be absent: not for ever, since registries
	// are brought up to date, and proxies answer 404 for a while.
	unlisted atomic.Int64
	// piecemeal is until when (Unix seconds) the registry is known to want two requests for a blob.
	piecemeal atomic.Int64
}

// unlistedFor is how long one answer is believed that a registry has no referrers API.
const unlistedFor = time.Hour

func (r *remoteRegistry) String() string { return r.host + "/" + r.path }

func (r *remoteRegistry) Repository(name string) (Repository, error) {
	if err := checkRepository(name); err != nil {
		return nil, err
	}
	repo := &remoteRepository{registry: r, busy: r.busy, Repository: &remote.Repository{
		Client:           r.client,
		Reference:        registry.Reference{Registry: r.host, Repository: strings.TrimPrefix(r.path+"/"+name, "/")},
		PlainHTTP:        r.plainHTTP,
		MaxMetadataBytes: MaxManifest,
		SkipReferrersGC:  true,

		ReferrerListMaxPages: maxReferrerPages,
	}}
	if time.Now().Unix() < r.unlisted.Load() {
		_ = repo.SetReferrersCapability(false) // nobody said otherwise yet
	}
	return repo, nil
}

// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
var repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// maxRepositoryName is what registries accept with the host.
const maxRepositoryName = 255

func checkRepository(name string) error {
	if len(name) > maxRepositoryName || !repositoryPattern.MatchString(name) {
		return fmt.Errorf("repository %q: not a valid name (a-z, 0-9, and . _ - between them, / between segments)", name)
	}
	return nil
}

type remoteRepository struct {
	*remote.Repository
	registry *remoteRegistry
	busy     *busy
}

func (r *remoteRepository) String() string {
	return r.Reference.Registry + "/" + r.Reference.Repository
}

func (r *remoteRepository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	desc, err := r.Repository.Resolve(ctx, reference)
	return desc, r.classify(reference, err)
}

func (r *remoteRepository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	reader, err := r.Repository.Fetch(ctx, desc)
	return reader, r.answer(ctx, string(desc.Digest), err)
}

// fetchTagged is one GET, where Resolve and Fetch are two requests.
func (r *remoteRepository) fetchTagged(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	desc, reader, err := r.FetchReference(ctx, reference)
	return desc, reader, r.answer(ctx, reference, err)
}

func (r *remoteRepository) listReferrers(ctx context.Context, subject ocispec.Descriptor) (list []ocispec.Descriptor, native bool, err error) {
	err = r.Referrers(ctx, subject, "", func(page []ocispec.Descriptor) error {
		if list = append(list, page...); len(list) > MaxReferrers {
			return tooManyReferrers(r, subject)
		}
		return nil
	})
	// An answer from the API made this known; a registry without one refuses to be said to have it.
	native = err == nil && r.SetReferrersCapability(true) == nil
	if now := time.Now(); err == nil && !native && now.Unix() >= r.registry.unlisted.Load() {
		r.registry.unlisted.Store(now.Add(unlistedFor).Unix())
	}
	return list, native, r.classify(string(subject.Digest), err)
}

func (r *remoteRepository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	ok, err := r.Repository.Exists(ctx, desc)
	return ok, r.classify(string(desc.Digest), err)
}

func (r *remoteRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if err := checkContent(desc, content); err != nil {
		return err
	}
	if len(tags) == 0 && !IsManifest(desc.MediaType) {
		return r.classify(string(desc.Digest), r.pushBlob(ctx, desc, content))
	}
	if len(tags) == 0 {
		return r.classify(string(desc.Digest), r.Repository.Push(ctx, desc, bytes.NewReader(content)))
	}
	for _, tag := range tags {
		if err := r.PushReference(ctx, desc, bytes.NewReader(content), tag); err != nil {
			return r.classify(tag, err)
		}
	}
	return nil
}

func (r *remoteRepository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	return r.classify(tag, r.Repository.Tag(ctx, desc, tag))
}

func (r *remoteRepository) Tags(ctx context.Context) ([]string, error) {
	var all []string
	err := r.Repository.Tags(ctx, "", func(tags []string) error {
		if all = append(all, tags...); len(all) > maxTags {
			return fmt.Errorf("%w: more than %d tags", ErrTooLarge, maxTags)
		}
		return nil
	})
	if err = r.classify("tags", err); errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	slices.Sort(all)
	return all, err
}

func (r *remoteRepository) Delete(ctx context.Context, desc ocispec.Descriptor) error {
	err := r.Repository.Delete(ctx, desc)
	var response *errcode.ErrorResponse
	if errors.As(err, &response) && response.StatusCode == http.StatusMethodNotAllowed {
		return fmt.Errorf("delete %s@%s: %w", r, desc.Digest, ErrUnsupported)
	}
	return r.classify(string(desc.Digest), err)
}

// answer is classify for an answer with content: what is no failure of the network or a refusal makes no sense, such as
// another length or digest than was asked for.
func (r *remoteRepository) answer(ctx context.Context, reference string, err error) error {
	classified := r.classify(reference, err)
	if err == nil || ctx.Err() != nil {
		return classified
	}
	for _, class := range []error{ErrNotFound, ErrUnauthorized, ErrUnreachable, ErrDamaged, ErrTooLarge, ErrUnsafe} {
		if errors.Is(classified, class) {
			return classified
		}
	}
	if response := (*errcode.ErrorResponse)(nil); errors.As(err, &response) {
		return classified
	}
	return fmt.Errorf("%w: %w", ErrDamaged, classified)
}

// classify adds which of this package's errors it is.
func (r *remoteRepository) classify(reference string, err error) error {
	if err == nil {
		return nil
	}
	var (
		response  *errcode.ErrorResponse
		transport *url.Error
		class     error
	)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%s: %w", r.subject(reference), ErrNotFound)
	case errors.Is(err, content.ErrMismatchedDigest):
		class = ErrDamaged
	case errors.Is(err, errdef.ErrTooManyPages):
		class = ErrTooLarge
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%s: %w: no credentials for %s; log in as with docker login %[3]s",
			r.subject(reference), ErrUnauthorized, r.Reference.Registry)
	case errors.As(err, &response):
		switch {
		case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
			return fmt.Errorf("%s: %w: %s refused the credentials (%d); log in as with docker login %[3]s",
				r.subject(reference), ErrUnauthorized, r.Reference.Registry, response.StatusCode)
		case response.StatusCode == http.StatusNotFound:
			return fmt.Errorf("%s: %w", r.subject(reference), ErrNotFound)
		case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
			class, err = ErrUnreachable, r.busy.wrap(err)
		}
	case errors.Is(err, context.Canceled), errors.Is(err, ErrUnsafe):
	case errors.As(err, &transport):
		class = ErrUnreachable
	}
	if class == nil {
		return fmt.Errorf("%s: %w", r.subject(reference), err)
	}
	return fmt.Errorf("%s: %w: %w", r.subject(reference), class, err)
}

func (r *remoteRepository) subject(reference string) string {
	if strings.Contains(reference, ":") {
		return r.String() + "@" + reference
	}
	return r.String() + ":" + reference
}
