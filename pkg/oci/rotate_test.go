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
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"pinnace.dev/pinnace/pkg/oci"
)

// replace writes a file anew, as a mounted Secret is replaced.
func replace(t *testing.T, path, content string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two versions within one tick of the filesystem's clock would look the same.
	at := time.Now().Add(time.Duration(len(content)) * time.Second)
	if err := errors.Join(os.Chtimes(next, at, at), os.Rename(next, path)); err != nil {
		t.Fatal(err)
	}
}

func certificate(server *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// resolve asks for something that is not there: how it fails tells how far it came.
func resolve(t *testing.T, opened oci.Registry) error {
	t.Helper()
	repo, err := opened.Repository("bundles/web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = repo.Resolve(t.Context(), "current")
	return err
}

func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	password := "one"
	backend := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		want := password
		mu.Unlock()
		if user, got, ok := r.BasicAuth(); !ok || user != "agent" || got != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	login := func(password string) string {
		return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("agent:"+password)))
	}
	file := filepath.Join(t.TempDir(), "config.json")
	replace(t, file, login("one"))
	opened, err := oci.Open(host+"/fleet", oci.Options{PlainHTTP: true, DockerConfig: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve(t, opened); !errors.Is(err, oci.ErrNotFound) {
		t.Fatalf("with the first password: %v", err)
	}
	mu.Lock()
	password = "another"
	mu.Unlock()
	if err := resolve(t, opened); !errors.Is(err, oci.ErrUnauthorized) {
		t.Errorf("with the old password: %v", err)
	}
	replace(t, file, "{ damaged")
	if err := resolve(t, opened); !errors.Is(err, oci.ErrUnauthorized) {
		t.Errorf("with a damaged file: %v", err)
	}
	replace(t, file, login("another"))
	if err := resolve(t, opened); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("with the new password: %v", err)
	}
}

func TestRootsAreReadAgain(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(registry.New())
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	// Any root that is not the server's.
	replace(t, file, other)
	opened, err := oci.Open(strings.TrimPrefix(server.URL, "https://")+"/fleet", oci.Options{CAFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve(t, opened); !errors.Is(err, oci.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another root: %v", err)
	}
	replace(t, file, certificate(server))
	if err := resolve(t, opened); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("with its root: %v", err)
	}
	replace(t, file, "damaged")
	if err := resolve(t, opened); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("with a damaged file, which leaves the one before: %v", err)
	}
}

// A registry that asks for longer than a request may last is left alone by it, and the error says for how long.
func TestLongRetryAfterIsToldToTheCaller(t *testing.T) {
	t.Parallel()
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.Header().Set("Retry-After", "1800")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	opened, err := oci.Open(strings.TrimPrefix(server.URL, "http://")+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	err = resolve(t, opened)
	var asked interface{ RetryAfter() time.Duration }
	if !errors.Is(err, oci.ErrUnreachable) || !errors.As(err, &asked) {
		t.Fatalf("%v: want one that is unreachable for a while", err)
	}
	if wait := asked.RetryAfter(); requests != 1 || wait < 29*time.Minute || wait > 30*time.Minute {
		t.Errorf("%d requests, then %s; want 1, 30m", requests, wait)
	}
}

// other is a root that signed nothing.
const other = `-----BEGIN CERTIFICATE-----
MIIBQTCB6aADAgECAgEBMAoGCCqGSM49BAMCMBAxDjAMBgNVBAMTBW90aGVyMCAX
DTI2MTEyMzE2MDkwMFoYDzIwNzYxMTIzMTYwOTAwWjAQMQ4wDAYDVQQDEwVvdGhl
cjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJa1ewBGAtf/oZ7dBci2daXplCHN
zuZB55vSbI3cwvZwCTQFsBURPlZa+iy8ZOydKmN22oOsrzXTPNkSy0dqpoOjMjAw
MA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFPv6Ckw9l3IKq7oN9fwM3Ff7iUAY
MAoGCCqGSM49BAMCA0cAMEQCIEWPbzePrUsiDVvJVX2MqeIs89DzBnGZ1WWlj7fe
kUKpAiANXiNU08Vv/Gpdd1/CdY8tkKGjEsR9Wf5FfZMx6QAhuA==
-----END CERTIFICATE-----
`
