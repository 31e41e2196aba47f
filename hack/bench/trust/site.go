package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/keyless"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

const (
	subject = "https://github.example/acme/shop/.github/workflows/release.yaml@refs/heads/main"
	issuer  = "https://token.actions.example"
)

func newBench() (*bench, error) {
	sigstore, err := signingtest.Start()
	if err != nil {
		return nil, err
	}
	private, _, err := signing.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	key, err := signing.LoadSigner(private, nil)
	if err != nil {
		return nil, err
	}
	identity, err := keyless.New(keyless.Options{
		Fulcio: sigstore.URL, Rekor: sigstore.URL, Timestamp: sigstore.TimestampURL(),
		Token: keyless.Token(signingtest.Token(subject, issuer)), TrustedRoot: sigstore.TrustedRoot,
	})
	return &bench{sigstore: sigstore, key: key, identity: identity}, err
}

// in is the key's signer for a format.
func (b *bench) in(format evidence.Format) (*signing.Signer, error) {
	return b.key.With(signing.SignOptions{Format: format})
}

// keyPolicy and identityPolicy trust whom the bench signs as. A verifier that is new remembers nothing.
func (b *bench) keyPolicy() (*signing.Verifier, error) {
	return signing.NewKeyVerifier("release", b.key.PublicKey())
}

func (b *bench) identityPolicy() (*signing.Verifier, error) {
	return b.identity.Verifier(context.Background())
}

// site is the embedded registry on disk, its requests recorded.
type site struct {
	addr     string
	registry oci.Registry
	proxy    *registrytest.Proxy

	dir     string
	handler *registry.Handler
	server  *http.Server
	served  chan error
}

func newSite() (s *site, err error) {
	s = &site{served: make(chan error, 1)}
	if s.dir, err = os.MkdirTemp("", "bench-trust-"); err != nil {
		return nil, err
	}
	if s.handler, err = registry.New(registry.Options{}); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.addr = listener.Addr().String()
	s.proxy = registrytest.NewProxy(s.handler)
	s.server = &http.Server{Handler: s.proxy, ReadHeaderTimeout: 10 * time.Second}
	go func() { s.served <- s.server.Serve(listener) }()
	s.registry, err = oci.Open(s.addr+"/fleet", oci.Options{PlainHTTP: true})
	return s, err
}

// close stops the registry and removes what it kept.
func (s *site) close() error {
	err := s.server.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, s.handler.Close(), os.RemoveAll(s.dir))
}

// artifact is one that was pushed.
type artifact struct {
	name string
	repo oci.Repository
	desc ocispec.Descriptor
}

// reference is what stock cosign calls it.
func (a artifact) reference() string { return a.repo.String() + "@" + a.desc.Digest.String() }

// push stores n small targets, each in a repository of its own.
func push(ctx context.Context, reg oci.Registry, n int) ([]artifact, error) {
	all := make([]artifact, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for i := range all {
		group.Go(func() (err error) {
			all[i].name = v1alpha1.TargetRepository(fmt.Sprintf("cluster-%04d", i))
			if all[i].repo, err = reg.Repository(all[i].name); err != nil {
				return err
			}
			content := fmt.Appendf(nil, `{"cluster":"cluster-%04d"}`, i)
			all[i].desc, _, err = oci.Push(ctx, all[i].repo, oci.Artifact{
				Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: content}},
			})
			return err
		})
	}
	return all, group.Wait()
}

func items(all []artifact) []signing.Item {
	out := make([]signing.Item, len(all))
	for i, one := range all {
		out[i] = signing.Item{Repository: one.repo, Descriptor: one.desc}
	}
	return out
}
