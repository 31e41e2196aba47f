package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credentials and certificates are replaced while programs run. Their files are looked at before they are used, and
// read again when they changed; one that cannot be read then leaves what was read before in use.

// stamp tells one version of a file from another. Kubernetes replaces mounted files by moving a link.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

// rotatingCredentials are those of a Docker config file.
type rotatingCredentials struct {
	path string

	mu    sync.Mutex
	stamp stamp
	get   auth.CredentialFunc
}

func newRotatingCredentials(path string) (*rotatingCredentials, error) {
	r := &rotatingCredentials{path: path, stamp: stampOf(path)}
	store, err := openCredentials(path)
	if err != nil {
		return nil, err
	}
	r.get = credentials.Credential(store)
	return r, nil
}

// Get returns the credentials for a host.
func (r *rotatingCredentials) Get(ctx context.Context, host string) (auth.Credential, error) {
	r.mu.Lock()
	if now := stampOf(r.path); r.path != "" && now != r.stamp {
		if store, err := openCredentials(r.path); err == nil {
			r.get, r.stamp = credentials.Credential(store), now
		}
	}
	get := r.get
	r.mu.Unlock()
	return get(ctx, host)
}

// rotatingRoots is a transport whose roots come from a file beside the system's.
type rotatingRoots struct {
	path string
	base *http.Transport

	mu      sync.Mutex
	stamp   stamp
	current *http.Transport
}

func newRotatingRoots(path string, base *http.Transport) (*rotatingRoots, error) {
	r := &rotatingRoots{path: path, base: base, stamp: stampOf(path)}
	var err error
	r.current, err = r.read()
	return r, err
}

func (r *rotatingRoots) read() (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	pem, err := os.ReadFile(r.path)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: no PEM certificate in it", r.path)
	}
	transport := r.base.Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return transport, nil
}

// RoundTrip sends the request with the roots as they are now.
func (r *rotatingRoots) RoundTrip(request *http.Request) (*http.Response, error) {
	r.mu.Lock()
	if now := stampOf(r.path); now != r.stamp {
		if next, err := r.read(); err == nil {
			r.current.CloseIdleConnections() // they were trusted by the old roots
			r.current, r.stamp = next, now
		}
	}
	current := r.current
	r.mu.Unlock()
	return current.RoundTrip(request)
}
