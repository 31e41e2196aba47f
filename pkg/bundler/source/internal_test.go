package source

import (
	"errors"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
)

func TestIdentity(t *testing.T) {
	tests := []struct{ in, identity, dial string }{
		{"https://user:pass@Git.Example:443/a/b.git", "https://git.example/a/b", "https://git.example/a/b.git"},
		{"https://git.example:8443/a/b/", "https://git.example:8443/a/b", "https://git.example:8443/a/b/"},
		{"git@git.example:a/b.git", "ssh://git.example/a/b", "ssh://git@git.example/a/b.git"},
		{"ssh://me@git.example:22/a/b", "ssh://git.example/a/b", "ssh://me@git.example/a/b"},
		{"ssh://git.example:2222/a/b.git", "ssh://git.example:2222/a/b", "ssh://git@git.example:2222/a/b.git"},
		{"file:///srv/git/a.git", "file:///srv/git/a", "file:///srv/git/a.git"},
		{"file://localhost/srv/a", "file:///srv/a", "file:///srv/a"},
	}
	for _, test := range tests {
		got, err := parseAddress(test.in)
		if err != nil || got.identity != test.identity || got.url != test.dial {
			t.Errorf("%s: got %q %q %v", test.in, got.identity, got.url, err)
		}
	}
	for in, want := range map[string]string{
		"git://git.example/a":       "not supported",
		"ext::sh -c id":             "no URL",
		"/srv/git":                  "no URL",
		"https://git.example":       "no repository",
		"https://git.example/a?b=c": "query",
		"file://server/share":       "file:///absolute/path",
		"https://u:s3cret@ho st/a":  "git url",
		"--upload-pack=id":          "no URL",
	} {
		_, err := parseAddress(in)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}

func TestNetrc(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netrc")
	content := "machine other.example login x password y\nmachine git.example\n  login me\n  password s3cret\ndefault login d password e\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"https://git.example/a":       "me s3cret",
		"https://other.example:444/a": "x y",
		"https://third.example/a":     " ",
		"https://you@git.example/a":   " ",
		"http://git.example/a":        " ",
	} {
		to, err := parseAddress(url)
		if err != nil {
			t.Fatal(err)
		}
		username, password, err := Auth{NetrcFile: file}.basic(to)
		if got := username + " " + password; err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", url, got, err, want)
		}
	}
}

func TestToken(t *testing.T) {
	auth := AuthFromEnvironment(func(name string) string {
		return map[string]string{"PINNACE_GIT_TOKEN": "t", "PINNACE_GIT_HOST": "git.example"}[name]
	}, "")
	for url, want := range map[string]string{
		"https://git.example/a": "git t", "https://evil.example/a": " ", "http://git.example/a": " ", "https://git.example:444/a": " ",
	} {
		to, err := parseAddress(url)
		if err != nil {
			t.Fatal(err)
		}
		username, password, err := auth.basic(to)
		if got := username + " " + password; err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", url, got, err, want)
		}
	}
}

func TestQuota(t *testing.T) {
	server, err := githttp.Start(t.TempDir(), githttp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	content := make([]byte, 100_000)
	for i := range content {
		content[i] = byte(rand.IntN(256))
	}
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "a"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := server.Create(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Commit(t.Context(), "web", "main", work, "big"); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{server.Repository("web"), "file://" + server.Dir("web")} {
		to, err := parseAddress(url)
		if err != nil {
			t.Fatal(err)
		}
		for quota, want := range map[int64]error{50_000: ErrRefused, 200_000: nil} {
			r, err := newRemote(t.Context(), to, Auth{})
			if err != nil {
				t.Fatal(err)
			}
			r.quota = quota
			rev, err := r.resolve(t.Context(), v1alpha1.GitRef{})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.fetch(t.Context(), rev, t.TempDir()); !errors.Is(err, want) {
				t.Errorf("%s, %d bytes: got %v, want %v", url, quota, err, want)
			}
		}
	}
}

func TestCacheCleansOldCheckouts(t *testing.T) {
	store := cache{dir: t.TempDir(), repository: "https://git.example/a"}
	add := func(commit string) {
		t.Helper()
		if _, _, err := store.fill(func(work string) (string, error) {
			return commit, os.Mkdir(filepath.Join(work, treeDir), 0o755)
		}); err != nil {
			t.Fatal(err)
		}
	}
	age := func(name string, days int) {
		t.Helper()
		stamp := time.Now().AddDate(0, 0, -days)
		if err := os.Chtimes(filepath.Join(store.folder(), name), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	for i, commit := range []string{"a", "b", "c", "d"} {
		add(commit)
		age(commit, 9-i)
	}
	crashed := filepath.Join(store.folder(), "tmp-crashed")
	if err := os.Mkdir(crashed, 0o755); err != nil {
		t.Fatal(err)
	}
	age("tmp-crashed", 2)
	add("e")
	left, err := filepath.Glob(filepath.Join(store.folder(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range left {
		names = append(names, filepath.Base(path))
	}
	if got := strings.Join(names, " "); got != "c d e" {
		t.Errorf("left %s, want the newest three", got)
	}
}

// No URL makes a password part of what is shown or dialled, and what was parsed parses again.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{
		"https://user:pass@git.example:443/a/b.git", "git@host:path/x.git", "ssh://git@[::1]:22/a", "file:///srv/x", "http://h/%2e%2e/x",
		"https://git.example/a?b=c#d", "host:a:b", "://", "https://\x00/", "git@host:~x/y", "ssh://:A:22/0", "file://",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := parseAddress(raw)
		if err != nil {
			return
		}
		dialled, err := url.Parse(a.url)
		if err != nil {
			t.Fatalf("%q became %q: %v", raw, a.url, err)
		}
		if _, has := dialled.User.Password(); has {
			t.Errorf("%q: a password is in %q", raw, a.url)
		}
		if _, err := parseAddress(a.url); err != nil {
			t.Errorf("%q became %q, which is none: %v", raw, a.url, err)
		}
	})
}
