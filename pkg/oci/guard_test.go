package oci_test

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// dockerConfig holds credentials for a host.
func dockerConfig(t *testing.T, host string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("user:secret")))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// listen serves on another loopback address than the registry's, so that it counts as another host.
func elsewhere(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	server.URL = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	return server
}

var blob = oci.Blob{MediaType: "application/octet-stream", Data: []byte(strings.Repeat("honest ", 100))}

func TestGuard(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, other string)
		other  http.HandlerFunc
		tokens bool // the other host is one that tokens may be asked of
		want   error
		// asked is how often the other host was, leaked whether it saw credentials.
		asked  int32
		leaked bool
	}{
		{
			name: "redirect to storage, without credentials",
			answer: func(w http.ResponseWriter, r *http.Request, other string) {
				http.Redirect(w, r, other+"/blob", http.StatusTemporaryRedirect)
			},
			other: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob.Data) }, asked: 1,
		},
		{
			name: "redirect loop",
			answer: func(w http.ResponseWriter, r *http.Request, _ string) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			},
			want: oci.ErrUnsafe,
		},
		{
			name: "redirect to where clouds keep credentials",
			answer: func(w http.ResponseWriter, r *http.Request, _ string) {
				http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusTemporaryRedirect)
			},
			want: oci.ErrUnsafe,
		},
		{
			name: "redirect to a file",
			answer: func(w http.ResponseWriter, r *http.Request, _ string) {
				http.Redirect(w, r, "file:///etc/passwd", http.StatusTemporaryRedirect)
			},
			want: oci.ErrUnsafe,
		},
		{
			name: "realm on another host",
			answer: func(w http.ResponseWriter, _ *http.Request, other string) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+other+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			},
			want: oci.ErrUnsafe,
		},
		{
			name: "realm on another host that is allowed", tokens: true,
			answer: func(w http.ResponseWriter, r *http.Request, other string) {
				if r.Header.Get("Authorization") == "Bearer good" {
					_, _ = w.Write(blob.Data)
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+other+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			},
			other: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":"good"}`)) }, asked: 1, leaked: true,
		},
		{
			name: "a body that drips",
			answer: func(w http.ResponseWriter, r *http.Request, _ string) {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob.Data)))
				for i := range blob.Data {
					_, _ = w.Write(blob.Data[i : i+1])
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			},
			want: oci.ErrUnreachable,
		},
		{
			name: "a body that never comes",
			answer: func(w http.ResponseWriter, r *http.Request, _ string) {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob.Data)))
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			},
			want: oci.ErrUnreachable,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			var leaked atomic.Bool
			other := elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.Header.Get("Authorization") != "" {
					leaked.Store(true)
				}
				if test.other != nil {
					test.other(w, r)
				}
			})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.asked == 1 && !test.tokens && r.Header.Get("Authorization") == "" { // credentials are there to be leaked
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				test.answer(w, r, other.URL)
			}))
			t.Cleanup(server.Close)
			host := strings.TrimPrefix(server.URL, "http://")
			opts := oci.Options{PlainHTTP: true, DockerConfig: dockerConfig(t, host), Stall: 300 * time.Millisecond}
			if test.tokens {
				opts.TokenHosts = []string{"localhost"}
			}
			registry, err := oci.Open(host+"/fleet", opts)
			if err != nil {
				t.Fatal(err)
			}
			repo, err := registry.Repository("bundles/web")
			if err != nil {
				t.Fatal(err)
			}
			desc := ocispec.Descriptor{MediaType: blob.MediaType, Digest: digest.FromBytes(blob.Data), Size: int64(len(blob.Data))}
			_, err = oci.ReadAll(t.Context(), repo, desc, 1<<20)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if asked.Load() != test.asked || leaked.Load() != test.leaked {
				t.Errorf("the other host was asked %d times, credentials %v; want %d, %v", asked.Load(), leaked.Load(), test.asked, test.leaked)
			}
		})
	}
}

// From https nothing goes on without TLS.
func TestNoDowngrade(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob.Data) }))
	t.Cleanup(plain.Close)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pemOf(server.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	registry, err := oci.Open(strings.TrimPrefix(server.URL, "https://")+"/fleet", oci.Options{CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository("bundles/web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oci.ReadAll(t.Context(), repo, blob.Descriptor(), 1<<20); !errors.Is(err, oci.ErrUnsafe) {
		t.Errorf("got %v, want %v", err, oci.ErrUnsafe)
	}
}

func pemOf(certificate []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}
