package source_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// forge is a Git server with one repository, web, whose main has a.yaml "one", then "two"; v1 tags the first commit.
type forge struct {
	*githttp.Server
	work       string
	first, tip string
}

func newForge(t *testing.T, options githttp.Options) *forge {
	t.Helper()
	server, err := githttp.Start(t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	f := &forge{Server: server, work: t.TempDir()}
	f.first = f.commit(t, "one")
	git(t, f.Dir("web"), "tag", "-m", "first", "v1", f.first)
	f.tip = f.commit(t, "two")
	return f
}

func (f *forge) commit(t *testing.T, content string) string {
	t.Helper()
	write(t, filepath.Join(f.work, "app", "a.yaml"), content)
	hash, err := f.Commit(t.Context(), "web", "main", f.work, content)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	command := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func checkout(t *testing.T, location string, ref v1alpha1.GitRef, opts source.Options) (source.Tree, error) {
	t.Helper()
	if opts.CacheDir == "" {
		opts.CacheDir = t.TempDir()
	}
	return source.Checkout(t.Context(), v1alpha1.Source{Name: "s", Git: &v1alpha1.GitSource{URL: location, Ref: ref}}, opts)
}

func TestCheckout(t *testing.T) {
	f := newForge(t, githttp.Options{})
	urls := map[string]string{"http": f.Repository("web"), "file": "file://" + f.Dir("web")}
	refs := []struct {
		name         string
		ref          v1alpha1.GitRef
		commit, text string
	}{
		{"head", v1alpha1.GitRef{}, f.tip, "two"},
		{"branch", v1alpha1.GitRef{Branch: "main"}, f.tip, "two"},
		{"tag", v1alpha1.GitRef{Tag: "v1"}, f.first, "one"},
		{"commit", v1alpha1.GitRef{Commit: f.first}, f.first, "one"},
		{"tip commit", v1alpha1.GitRef{Commit: f.tip}, f.tip, "two"},
	}
	for scheme, url := range urls {
		for _, test := range refs {
			t.Run(scheme+" "+test.name, func(t *testing.T) {
				got, err := checkout(t, url, test.ref, source.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if got.Commit != test.commit || got.Cached || got.Repository != strings.TrimSuffix(url, ".git") {
					t.Errorf("got %+v", got)
				}
				content, err := os.ReadFile(filepath.Join(got.Dir, "app", "a.yaml"))
				if err != nil || string(content) != test.text {
					t.Errorf("a.yaml: %q %v, want %q", content, err, test.text)
				}
				if _, err := os.Stat(filepath.Join(got.Dir, ".git")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf(".git: %v", err)
				}
			})
		}
	}
}

func TestCheckoutOfSingleCommitsWhereTheServerAllowsThem(t *testing.T) {
	f := newForge(t, githttp.Options{})
	git(t, f.Dir("web"), "config", "uploadpack.allowAnySHA1InWant", "true")
	// Reachable from no branch: a full fetch would not find it.
	orphan := git(t, f.Dir("web"), "commit-tree", "-m", "orphan", f.first+"^{tree}")
	got, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Commit: orphan}, source.Options{})
	if err != nil || got.Commit != orphan {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestUnchangedCostsOneRequest(t *testing.T) {
	f := newForge(t, githttp.Options{})
	opts := source.Options{CacheDir: t.TempDir()}
	first, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Branch: "main"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	before := f.Requests()
	again, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Branch: "main"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Requests() - before; got != 1 || !again.Cached || again.Dir != first.Dir {
		t.Errorf("%d requests, %+v after %+v", got, again, first)
	}
	tip := f.commit(t, "three")
	moved, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Branch: "main"}, opts)
	if err != nil || moved.Commit != tip || moved.Cached {
		t.Errorf("after a commit: %+v, %v", moved, err)
	}
}

func TestConcurrentCheckoutsShareOneCache(t *testing.T) {
	f := newForge(t, githttp.Options{})
	opts := source.Options{CacheDir: t.TempDir()}
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			got, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{}, opts)
			if err != nil || got.Commit != f.tip {
				t.Errorf("got %+v, %v", got, err)
				return
			}
			if _, err := os.Stat(filepath.Join(got.Dir, "app", "a.yaml")); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	left, err := filepath.Glob(filepath.Join(opts.CacheDir, "*", "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left in the cache: %v %v", left, err)
	}
}

func TestCredentials(t *testing.T) {
	f := newForge(t, githttp.Options{Username: "robot", Password: "s3cret"})
	host := strings.TrimPrefix(f.URL, "http://")
	dir := t.TempDir()
	store := func(name, content string) source.Auth {
		write(t, filepath.Join(dir, name), content)
		return source.Auth{CredentialFiles: []string{filepath.Join(dir, "absent"), filepath.Join(dir, name)}}
	}
	tests := []struct {
		name string
		url  string
		auth source.Auth
		want error
	}{
		{"none", f.Repository("web"), source.Auth{}, source.ErrUnauthorized},
		{"in the url", strings.Replace(f.Repository("web"), "//", "//robot:s3cret@", 1), source.Auth{}, nil},
		{"wrong in the url", strings.Replace(f.Repository("web"), "//", "//robot:wr0ng@", 1), source.Auth{}, source.ErrUnauthorized},
		{"store", f.Repository("web"), store("a", "# mine\nhttps://x:y@"+host+"\nhttp://robot:s3cret@"+host+"\n"), nil},
		{"store by path", f.Repository("web"), store("b", "http://robot:s3cret@"+host+"/web.git\n"), nil},
		{"store of another path", f.Repository("web"), store("c", "http://robot:s3cret@"+host+"/other.git\n"), source.ErrUnauthorized},
		{"store of another host", f.Repository("web"), store("d", "http://robot:s3cret@example.com\n"), source.ErrUnauthorized},
		{"token stays off plain http", f.Repository("web"), source.Auth{Username: "robot", Token: "s3cret", Host: host}, source.ErrUnauthorized},
		{"token without host", f.Repository("web"), source.Auth{Token: "s3cret"}, source.ErrUnauthorized},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := checkout(t, test.url, v1alpha1.GitRef{}, source.Options{Auth: test.auth})
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err == nil {
				return
			}
			if text := err.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "wr0ng") ||
				!strings.Contains(text, "PINNACE_GIT_HOST") && !strings.Contains(text, "~/.git-credentials") || !strings.Contains(text, f.URL+"/web") {
				t.Errorf("error: %s", text)
			}
		})
	}
}

func TestTokenOverHTTPS(t *testing.T) {
	f := newForge(t, githttp.Options{Username: "git", Password: "t0ken"})
	behind, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(behind))
	defer front.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	write(t, authority, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	host := strings.TrimPrefix(front.URL, "https://")
	home := t.TempDir()
	write(t, filepath.Join(home, ".netrc"), "machine 127.0.0.1\nlogin git\npassword t0ken\n")
	environment := func(more map[string]string) source.Auth {
		return source.AuthFromEnvironment(func(name string) string { return more[name] }, home)
	}
	tests := []struct {
		name string
		auth source.Auth
		want error
	}{
		{"token", source.Auth{Token: "t0ken", Host: host, CAFile: authority}, nil},
		{"token of another host", source.Auth{Token: "t0ken", Host: "example.com", CAFile: authority}, source.ErrUnauthorized},
		{"netrc", environment(map[string]string{"PINNACE_GIT_CA_FILE": authority}), nil},
		{"unknown authority", source.Auth{Token: "t0ken", Host: host}, source.ErrUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := checkout(t, front.URL+"/web.git", v1alpha1.GitRef{}, source.Options{Auth: test.auth})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if errors.Is(test.want, source.ErrUnreachable) && !strings.Contains(err.Error(), "PINNACE_GIT_CA_FILE") {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestBadRepositories(t *testing.T) {
	f := newForge(t, githttp.Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	listener.Close()
	if err := f.Create(t.Context(), "empty"); err != nil {
		t.Fatal(err)
	}
	absent := strings.Repeat("0", 39) + "1"
	tests := []struct {
		name, url string
		ref       v1alpha1.GitRef
		want      error
		text      string
	}{
		{"unreachable", "http://" + nobody + "/web.git", v1alpha1.GitRef{}, source.ErrUnreachable, nobody + "/web: unreachable"},
		{"no such repository", f.Repository("nothing"), v1alpha1.GitRef{}, source.ErrNotFound, "check the URL"},
		{"no such folder", "file:///nothing/here", v1alpha1.GitRef{}, source.ErrNotFound, "file:///nothing/here"},
		{"empty", f.Repository("empty"), v1alpha1.GitRef{}, source.ErrNotFound, "first commit"},
		{"branch", f.Repository("web"), v1alpha1.GitRef{Branch: "mian"}, source.ErrNotFound, `no branch "mian"; push it or change git.ref of the source (there is refs/heads/main)`},
		{"tag", f.Repository("web"), v1alpha1.GitRef{Tag: "v2"}, source.ErrNotFound, `no tag "v2"`},
		{"commit", f.Repository("web"), v1alpha1.GitRef{Commit: absent}, source.ErrNotFound, absent},
		{"short commit", f.Repository("web"), v1alpha1.GitRef{Commit: "abc"}, source.ErrRefused, "40 hexadecimal"},
		{"two refs", f.Repository("web"), v1alpha1.GitRef{Branch: "a", Tag: "b"}, source.ErrRefused, "keep one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := checkout(t, test.url, test.ref, source.Options{})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || !strings.HasPrefix(err.Error(), `source "s": `) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = source.Checkout(cancelled, v1alpha1.Source{Name: "s", Git: &v1alpha1.GitSource{URL: f.Repository("web")}},
		source.Options{CacheDir: t.TempDir()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestHostileTrees(t *testing.T) {
	f := newForge(t, githttp.Options{})
	bare := f.Dir("web")
	blob := func(content string) string {
		file := filepath.Join(t.TempDir(), "blob")
		write(t, file, content)
		return git(t, bare, "hash-object", "-w", file)
	}
	// branch makes a branch of a tree of "mode hash path" entries.
	branch := func(name string, entries ...string) {
		git(t, bare, "read-tree", "--empty")
		for _, entry := range entries {
			git(t, bare, "update-index", "--add", "--cacheinfo", strings.ReplaceAll(entry, " ", ","))
		}
		git(t, bare, "update-ref", "refs/heads/"+name, git(t, bare, "commit-tree", "-m", name, git(t, bare, "write-tree")))
	}
	file := "100644 " + blob("hello") + " "
	link := func(target, name string) string { return "120000 " + blob(target) + " " + name }
	branch("absolute", link("/etc/passwd", "a"))
	branch("parent", file+"b/f", link("../../etc", "b/a"))
	branch("chain", file+"e/f", link("../../e", "p/q/d"), link("d/../..", "p/q/x"))
	branch("loop", link("b", "a"), link("a", "b"))
	branch("submodule", file+"f", "160000 "+f.first+" lib")
	branch("fine", file+"e/f", link("e", "dir"), link("dir/f", "g"), link("nowhere", "h"))
	for name, want := range map[string]string{
		"absolute": `a: is a symbolic link to "/etc/passwd", which leaves`, "parent": `b/a: is a symbolic link`,
		"chain": `p/q/x: is a symbolic link`, "loop": "a: is a symbolic link", "submodule": "lib: is a submodule",
	} {
		_, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Branch: name}, source.Options{})
		if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	got, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Branch: "fine"}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(got.Dir, "g")); err != nil || string(content) != "hello" {
		t.Errorf("g: %q %v", content, err)
	}
}

func TestFleet(t *testing.T) {
	f := newForge(t, githttp.Options{})
	dir := t.TempDir()
	local, err := source.Fleet(t.Context(), dir, v1alpha1.GitRef{}, source.Options{})
	if err != nil || local.Commit != "" || local.Repository != "" || !filepath.IsAbs(local.Dir) {
		t.Errorf("local: %+v, %v", local, err)
	}
	opts := source.Options{CacheDir: t.TempDir()}
	fetched, err := source.Fleet(t.Context(), f.Repository("web"), v1alpha1.GitRef{Tag: "v1"}, opts)
	if err != nil || fetched.Commit != f.first {
		t.Errorf("url: %+v, %v", fetched, err)
	}
	opts.Fleet = fetched
	if own, err := source.Checkout(t.Context(), v1alpha1.Source{Name: "own"}, opts); err != nil || own != fetched {
		t.Errorf("a source without git: %+v, %v", own, err)
	}
	if _, err := source.Fleet(t.Context(), dir, v1alpha1.GitRef{Branch: "main"}, opts); err == nil {
		t.Error("a local folder with a branch was taken")
	}
	if _, err := source.Fleet(t.Context(), filepath.Join(dir, "absent"), v1alpha1.GitRef{}, opts); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: %v", err)
	}
	if _, err := source.Checkout(t.Context(), v1alpha1.Source{Name: "own"}, source.Options{}); err == nil {
		t.Error("a source without git and without a fleet was taken")
	}
}
