package source

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// secret is the one password of the files that are fuzzed; what a fuzzer puts around it must not send it elsewhere.
const secret = "s3cret-of-this-host"

// FuzzNetrc: whatever stands before or behind a host's entry, another host is never given its password, and an entry that
// stands alone is found.
func FuzzNetrc(f *testing.F) {
	for _, seed := range [][2]string{
		{"", ""},
		{"machine a.example login a password b\n", "\ndefault login x password y"},
		{"# a comment\nmachine", "machine other.example login z"},
		{"macdef init\ncd /\n\n", "\nmachine git.example password"},
		{"default login x password", "login password machine"},
		{"machine other.example login", "\r\n\x00"},
	} {
		f.Add(seed[0], seed[1])
	}
	file := filepath.Join(f.TempDir(), "netrc")
	f.Fuzz(func(t *testing.T, before, behind string) {
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s\nmachine git.example login me password %s\n%s", before, secret, behind), 0o600); err != nil {
			t.Fatal(err)
		}
		other, err := parseAddress("https://other.example/a/b")
		if err != nil {
			t.Fatal(err)
		}
		// Only a file that itself names the other host, or leaves a word open that swallows "machine", may answer for it.
		if user, pass, err := fromNetrc(file, other); err == nil && pass == secret && !strings.Contains(strings.ToLower(before), "other.example") {
			t.Errorf("%q, %q: another host gets %s's password", before, behind, user)
		}
		if user, pass, err := fromNetrc(file, address{scheme: "https", host: "git.example:8443"}); err == nil && before == "" && behind == "" &&
			(user != "me" || pass != secret) {
			t.Errorf("got %q %q", user, pass)
		}
	})
}

// FuzzCredentialStore: what is found is for the host that was asked for, and stands in the file as such.
func FuzzCredentialStore(f *testing.F) {
	for _, seed := range []string{
		"https://me:pass@git.example\n", "# https://me:pass@git.example\nhttps://you:word@GIT.example/a/b.git", "https://a:b@git.example:443",
		"https://git.example@evil.example/\nhttp://me:pass@git.example", "https://%zz:x@git.example", "https://:x@git.example/a/../a/b",
		"https://me:pass@git.example/other", "\x00\nhttps://a:%00@git.example", "https://a:p@git.example/a/b?x#y",
	} {
		f.Add(seed)
	}
	file := filepath.Join(f.TempDir(), "credentials")
	to, err := parseAddress("https://git.example/a/b")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		user, pass, err := fromStore(file, to)
		if err != nil || pass == "" {
			if user != "" || pass != "" {
				t.Errorf("%q: got %q %q beside %v", content, user, pass, err)
			}
			return
		}
		for line := range strings.Lines(content) {
			entry, err := url.Parse(strings.TrimSpace(line))
			if err != nil || entry.User == nil {
				continue
			}
			if held, _ := entry.User.Password(); held == pass && entry.User.Username() == user && entry.Scheme == "https" && strings.EqualFold(entry.Host, "git.example") {
				return
			}
		}
		t.Errorf("%q: %q %q is no credential of the host", content, user, pass)
	})
}
