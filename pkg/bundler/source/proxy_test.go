package source_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// checkoutVariable makes the test program check a URL out and end: proxies are read from the environment once in the
// life of a process.
const checkoutVariable = "SOURCE_TEST_CHECKOUT"

func TestMain(m *testing.M) {
	location := os.Getenv(checkoutVariable)
	if location == "" {
		os.Exit(m.Run())
	}
	cache, err := os.MkdirTemp("", "checkout")
	if err != nil {
		panic(err)
	}
	tree, err := source.Checkout(context.Background(), v1alpha1.Source{Name: "s", Git: &v1alpha1.GitSource{URL: location}},
		source.Options{CacheDir: cache, Auth: source.AuthFromEnvironment(os.Getenv, "")})
	_ = os.RemoveAll(cache)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(tree.Commit)
}

// proxy is an HTTP proxy with a password, that tunnels (CONNECT) and forwards. Whatever name is asked for, it reaches
// the servers behind it.
type proxy struct {
	*httptest.Server
	tls, plain string // addresses of the servers behind
	mu         sync.Mutex
	seen       []string
	tunnels    sync.WaitGroup
}

func newProxy(t *testing.T, tls, plain string) *proxy {
	p := &proxy{tls: tls, plain: plain}
	p.Server = httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		p.tunnels.Wait()
	})
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+r.Host)
	p.mu.Unlock()
	if user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); !ok || user != "ship" || password != "s3cret" {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		r.Header.Del("Proxy-Authorization")
		behind := &httputil.ReverseProxy{Rewrite: func(to *httputil.ProxyRequest) { to.SetURL(&url.URL{Scheme: "http", Host: p.plain}) }}
		behind.ServeHTTP(w, r)
		return
	}
	behind, err := new(net.Dialer).DialContext(r.Context(), "tcp", p.tls)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	for to, from := range map[net.Conn]io.Reader{behind: buffered, client: behind} {
		p.tunnels.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		})
	}
}

func (p *proxy) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.seen
	p.seen = nil
	return out
}

// The hosts' names lead nowhere, or elsewhere: only through the proxy there is a repository.
func TestThroughAProxy(t *testing.T) {
	f := newForge(t, githttp.Options{})
	forge, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(forge))
	defer front.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	write(t, authority, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	p := newProxy(t, front.Listener.Addr().String(), forge.Host)
	address := strings.TrimPrefix(p.URL, "http://")
	good, bad := "http://ship:s3cret@"+address, "http://ship:wr0ng@"+address
	nobody := httptest.NewServer(nil)
	nobody.Close()
	away := "http://ship:s3cret@" + strings.TrimPrefix(nobody.URL, "http://")

	for _, test := range []struct {
		name, url   string
		environment []string
		want        string   // of what is printed
		through     []string // what the proxy sees first
	}{
		// The certificate of httptest is for example.com.
		{"https", "https://example.com/web.git", []string{"HTTPS_PROXY=" + good}, f.tip, []string{"CONNECT example.com:443"}},
		{"http", "http://git.invalid/web.git", []string{"HTTP_PROXY=" + good}, f.tip, []string{"GET git.invalid"}},
		{"small letters", "https://example.com/web.git", []string{"https_proxy=" + good}, f.tip, []string{"CONNECT example.com:443"}},
		{"not for this host", "http://git.invalid/web.git", []string{"HTTP_PROXY=" + good, "NO_PROXY=.invalid"}, "unreachable", nil},
		{"wrong password", "https://example.com/web.git", []string{"HTTPS_PROXY=" + bad}, "Proxy Authentication Required", []string{"CONNECT example.com:443"}},
		{"proxy is away", "https://example.com/web.git", []string{"HTTPS_PROXY=" + away}, "check the URL, the network and the proxy", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), os.Args[0])
			command.Env = slices.Concat(test.environment, []string{checkoutVariable + "=" + test.url, "PINNACE_GIT_CA_FILE=" + authority, "TMPDIR=" + t.TempDir()})
			out, err := command.CombinedOutput()
			text := string(out)
			if !strings.Contains(text, test.want) || (err == nil) != (test.want == f.tip) {
				t.Errorf("%v: %s, want %s", err, text, test.want)
			}
			if strings.Contains(text, "s3cret") || strings.Contains(text, "wr0ng") {
				t.Errorf("the proxy's password is shown: %s", text)
			}
			seen := p.took()
			if len(seen) == 0 != (len(test.through) == 0) || len(seen) > 0 && seen[0] != test.through[0] {
				t.Errorf("the proxy saw %v, want %v first", seen, test.through)
			}
		})
	}
}
