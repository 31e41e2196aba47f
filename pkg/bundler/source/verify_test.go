package source_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// signer signs as git does, with an SSH key or an OpenPGP key.
type signer struct {
	public string
	sign   func(t *testing.T, message string) string
}

func sshSigner(t *testing.T, namespace string) signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	known, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return signer{string(ssh.MarshalAuthorizedKey(known)), func(t *testing.T, message string) string {
		t.Helper()
		signature, err := sshsig.Sign(strings.NewReader(message), key, sshsig.HashSHA512, namespace)
		if err != nil {
			t.Fatal(err)
		}
		return string(sshsig.Armor(signature))
	}}
}

func pgpSigner(t *testing.T) signer {
	t.Helper()
	entity, err := openpgp.NewEntity("dev", "", "dev@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	writer, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(entity.Serialize(writer), writer.Close()); err != nil {
		t.Fatal(err)
	}
	return signer{public.String(), func(t *testing.T, message string) string {
		t.Helper()
		var out bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&out, entity, strings.NewReader(message), nil); err != nil {
			t.Fatal(err)
		}
		return out.String() + "\n"
	}}
}

const person = "dev <dev@example.com> 1700000000 +0000"

// object stores a Git object and returns its hash.
func object(t *testing.T, dir, kind, content string) string {
	t.Helper()
	command := exec.Command("git", "hash-object", "-t", kind, "-w", "--stdin")
	command.Dir, command.Stdin = dir, strings.NewReader(content)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// signedCommit puts a commit of what the tip has on a branch.
func signedCommit(t *testing.T, f *forge, branch string, by *signer) string {
	t.Helper()
	head := "tree " + git(t, f.Dir("web"), "rev-parse", f.tip+"^{tree}") + "\nauthor " + person + "\ncommitter " + person + "\n"
	message := "\non " + branch + "\n"
	signature := ""
	if by != nil {
		text := strings.TrimSuffix(by.sign(t, head+message), "\n")
		signature = "gpgsig " + strings.ReplaceAll(text, "\n", "\n ") + "\n"
	}
	hash := object(t, f.Dir("web"), "commit", head+signature+message)
	git(t, f.Dir("web"), "update-ref", "refs/heads/"+branch, hash)
	return hash
}

// signedTag puts an annotated tag, which says that it is called name, under another one.
func signedTag(t *testing.T, f *forge, name, under, commit string, by *signer) {
	t.Helper()
	content := "object " + commit + "\ntype commit\ntag " + name + "\ntagger " + person + "\n\nversion\n"
	if by != nil {
		content += by.sign(t, content)
	}
	git(t, f.Dir("web"), "update-ref", "refs/tags/"+under, object(t, f.Dir("web"), "tag", content))
}

func TestSignatures(t *testing.T) {
	f := newForge(t, githttp.Options{})
	pgp, sshKey, other := pgpSigner(t), sshSigner(t, "git"), sshSigner(t, "git")
	mail := sshSigner(t, "email")
	signedCommit(t, f, "pgp", &pgp)
	commit := signedCommit(t, f, "ssh", &sshKey)
	signedCommit(t, f, "other", &other)
	signedCommit(t, f, "mail", &mail)
	unsigned := signedCommit(t, f, "unsigned", nil)
	signedTag(t, f, "v2", "v2", commit, &pgp)
	signedTag(t, f, "v2", "v3", commit, &pgp)
	signedTag(t, f, "v4", "v4", unsigned, &sshKey)
	signedTag(t, f, "v5", "v5", commit, nil)
	git(t, f.Dir("web"), "update-ref", "refs/tags/light", commit)

	dir := t.TempDir()
	write(t, filepath.Join(dir, "keys", "ssh.pub"), "# who may sign\n"+sshKey.public)
	keys := []v1alpha1.GitKey{{Name: "pgp", PublicKey: pgp.public}, {Name: "ssh", File: "keys/ssh.pub"}, {Name: "mail", PublicKey: mail.public}}
	tests := []struct {
		name, what string
		ref        v1alpha1.GitRef
		want       string // part of the error; none when it is accepted
	}{
		{"commit by OpenPGP", "", v1alpha1.GitRef{Branch: "pgp"}, ""},
		{"commit by SSH", "commit", v1alpha1.GitRef{Branch: "ssh"}, ""},
		{"commit by its hash", "", v1alpha1.GitRef{Commit: commit}, ""},
		{"commit by another key", "", v1alpha1.GitRef{Branch: "other"}, "no allowed key made the signature; sign it with a key of git.verify: pgp, ssh, mail"},
		{"a signature for mail", "", v1alpha1.GitRef{Branch: "mail"}, "no allowed key made the signature"},
		{"unsigned commit", "", v1alpha1.GitRef{Branch: "unsigned"}, "commit " + unsigned + ": is not signed"},
		{"a signed tag does not sign for its commit", "", v1alpha1.GitRef{Tag: "v4"}, "is not signed"},
		{"tag by OpenPGP", "tag", v1alpha1.GitRef{Tag: "v2"}, ""},
		{"tag by SSH", "tag", v1alpha1.GitRef{Tag: "v4"}, ""},
		{"tag and commit", "tagAndCommit", v1alpha1.GitRef{Tag: "v2"}, ""},
		{"tag and unsigned commit", "tagAndCommit", v1alpha1.GitRef{Tag: "v4"}, "is not signed"},
		{"tag under another name", "tag", v1alpha1.GitRef{Tag: "v3"}, `is the tag "v2" under another name`},
		{"unsigned tag", "tag", v1alpha1.GitRef{Tag: "v5"}, `tag "v5": is not signed`},
		{"tag without a message", "tag", v1alpha1.GitRef{Tag: "light"}, "is no annotated tag"},
		{"a branch where a tag is required", "tag", v1alpha1.GitRef{Branch: "ssh"}, "is no annotated tag"},
		{"what else", "signature", v1alpha1.GitRef{Branch: "ssh"}, `verify.what "signature"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			src := v1alpha1.Source{Name: "s", Git: &v1alpha1.GitSource{
				URL: f.Repository("web"), Ref: test.ref, Verify: &v1alpha1.GitVerify{What: test.what, Keys: keys},
			}}
			opts := source.Options{CacheDir: t.TempDir(), Fleet: source.Tree{Dir: dir}}
			// What is refused is refused again: nothing of it stays in the cache. What is accepted comes from there.
			for i := range 2 {
				tree, err := source.Checkout(t.Context(), src, opts)
				if test.want == "" && (err != nil || tree.Cached != (i > 0)) {
					t.Fatalf("%d: got %v, cached %v", i, err, tree.Cached)
				}
				if test.want != "" && (!errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), test.want)) {
					t.Fatalf("%d: got %v, want %s", i, err, test.want)
				}
			}
			// A checkout from before signatures were required says nothing of them.
			src.Git.Verify = nil
			opts.CacheDir = t.TempDir()
			if _, err := source.Checkout(t.Context(), src, opts); err != nil {
				t.Fatal(err)
			}
			src.Git.Verify = &v1alpha1.GitVerify{What: test.what, Keys: keys}
			if _, err := source.Checkout(t.Context(), src, opts); (err == nil) != (test.want == "") {
				t.Errorf("after a checkout without verification: got %v", err)
			}
		})
	}
}

func TestKeysThatAreNone(t *testing.T) {
	f := newForge(t, githttp.Options{})
	for name, test := range map[string]struct {
		keys []v1alpha1.GitKey
		want string
	}{
		"none":      {nil, "names no key"},
		"empty":     {[]v1alpha1.GitKey{{Name: "a"}}, "set exactly one of publicKey and file"},
		"both":      {[]v1alpha1.GitKey{{Name: "a", PublicKey: "x", File: "y"}}, "set exactly one of publicKey and file"},
		"no key":    {[]v1alpha1.GitKey{{Name: "a", PublicKey: "hello"}}, "is neither an OpenPGP key"},
		"no file":   {[]v1alpha1.GitKey{{Name: "a", File: "absent"}}, "file absent"},
		"elsewhere": {[]v1alpha1.GitKey{{Name: "a", File: "../../etc/passwd"}}, "path escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := source.Checkout(t.Context(), v1alpha1.Source{Name: "s", Git: &v1alpha1.GitSource{
				URL: f.Repository("web"), Verify: &v1alpha1.GitVerify{Keys: test.keys},
			}}, source.Options{CacheDir: t.TempDir(), Fleet: source.Tree{Dir: t.TempDir()}})
			if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestRangeOfTags(t *testing.T) {
	f := newForge(t, githttp.Options{})
	for _, tag := range []string{"v1.2.0", "v1.10.0", "2.0.0", "v1.11.0-rc.1", "release-9"} {
		git(t, f.Dir("web"), "tag", tag, f.first)
	}
	git(t, f.Dir("web"), "tag", "-f", "-m", "annotated", "v1.10.0", f.tip)
	for within, want := range map[string]string{">=1.4 <2": "v1.10.0", "^2": "2.0.0", ">=1.11.0-0 <2": "v1.11.0-rc.1", "*": "2.0.0"} {
		tree, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Semver: within}, source.Options{})
		if err != nil || tree.Version != want {
			t.Errorf("%s: got %q, %v, want %s", within, tree.Version, err, want)
		}
		if within == ">=1.4 <2" && tree.Commit != f.tip {
			t.Errorf("%s: got %s, want %s", within, tree.Commit, f.tip)
		}
	}
	if _, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Semver: ">=3"}, source.Options{}); !errors.Is(err, source.ErrNotFound) || !strings.Contains(err.Error(), `no tag within ">=3"`) {
		t.Errorf("got %v", err)
	}
	if _, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Semver: "newest"}, source.Options{}); !errors.Is(err, source.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if _, err := checkout(t, f.Repository("web"), v1alpha1.GitRef{Semver: "1", Tag: "v1"}, source.Options{}); !errors.Is(err, source.ErrRefused) {
		t.Errorf("got %v", err)
	}
}
