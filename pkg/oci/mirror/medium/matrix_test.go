package medium_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// receivers are registries that keep referrers in their own way: none by an API, and one with.
func receivers(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{
		"embedded":       newServer(t).Addr,
		"with referrers": newServerWithReferrers(t).Addr,
	}
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Log("LEFT OUT: Debian's docker-registry is not installed (apt-get install docker-registry)")
		return out
	}
	out["debian"] = startDebian(t, program)
	return out
}

// newServerWithReferrers has the API that lists referrers, which the embedded registry and Debian's have not, and says so
// with each manifest that has a subject: nobody then keeps a list in a tag.
func newServerWithReferrers(t *testing.T) *registrytest.Server {
	t.Helper()
	next := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	return registrytest.Wrap(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			var manifest ocispec.Manifest
			if json.Unmarshal(data, &manifest) == nil && manifest.Subject != nil {
				w.Header().Set("OCI-Subject", manifest.Subject.Digest.String())
			}
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		next.ServeHTTP(w, r)
	}))
}

// listed says whether a repository keeps a list of what refers to a manifest in a tag.
func listed(t *testing.T, registry oci.Registry, repository, reference string) bool {
	t.Helper()
	repo, err := registry.Repository(repository)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), reference)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := repo.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(tags, strings.Replace(desc.Digest.String(), ":", "-", 1))
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

func startDebian(t *testing.T, program string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yml")
	content := fmt.Sprintf("version: 0.1\nlog: {level: info}\nhttp: {addr: '127.0.0.1:0'}\n"+
		"storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", t.TempDir())
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = []string{} // REGISTRY_… would change the configuration
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		_ = cmd.Wait() // it was told to end
	})
	addr := ""
	for addr == "" && lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addr = m[1]
		}
	}
	go func() {
		defer close(drained)
		for lines.Scan() {
		}
	}()
	if addr == "" {
		t.Fatal("docker-registry ended before it listened")
	}
	return addr
}

// Signatures in every form arrive from every kind of sender at every kind of registry, and verify there: by the policy,
// and by stock cosign.
func TestSignaturesArriveEverywhere(t *testing.T) {
	for _, form := range []struct {
		name   string
		format evidence.Format
		sender func(*testing.T) *registrytest.Server
		listed bool
	}{
		{".sig", evidence.FormatTag, newServer, false},
		{"fallback tag", evidence.FormatReferrer, newServer, true},
		{"referrers", evidence.FormatReferrer, newServerWithReferrers, false},
		{"bundle at fallback tag", evidence.FormatBundle, newServer, true},
		{"bundle among referrers", evidence.FormatBundle, newServerWithReferrers, false},
	} {
		w := newWorld(t, tiny)
		signer, err := w.signer.With(signing.SignOptions{Format: form.format})
		if err != nil {
			t.Fatal(err)
		}
		w.centre, w.images = form.sender(t), form.sender(t) // without the signatures of the usual form
		w.fleet.ImageHost, w.signer = w.images.Addr, signer
		w.publish(t)
		if got := listed(t, w.centre.Registry(t), v1alpha1.TargetRepository("site-00"), v1alpha1.TagCurrent); got != form.listed {
			t.Fatalf("%s: a list of referrers in a tag: %v, want %v", form.name, got, form.listed)
		}
		dir := w.export(t, nil, 0)
		image, err := oci.ParseImage(w.fleet.Image(0))
		if err != nil {
			t.Fatal(err)
		}
		for name, addr := range receivers(t) {
			t.Run(form.name+" to "+name, func(t *testing.T) {
				site, err := oci.Open(addr+"/fleet", oci.Options{PlainHTTP: true})
				if err != nil {
					t.Fatal(err)
				}
				w.mustImport(t, site, dir)
				w.check(t, site, "site-00")
				for _, reference := range []string{v1alpha1.TargetRepository("site-00") + ":current", image.Mirrored() + ":v1"} {
					w.stock(t, form.format, addr+"/fleet/"+reference)
				}
			})
		}
	}
}

// stock verifies with the command as people have it.
func (w *world) stock(t *testing.T, format evidence.Format, reference string) {
	t.Helper()
	program, err := signingtest.Cosign()
	if err != nil {
		t.Logf("LEFT OUT: %v", err)
		return
	}
	public := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(public, w.signer.PublicKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--key", public, "--insecure-ignore-tlog=true", "--allow-http-registry"}
	switch format {
	case evidence.FormatReferrer:
		args = append(args, "--experimental-oci11")
	case evidence.FormatBundle:
		args = append(args, "--new-bundle-format", "--trusted-root", emptyRoot(t))
	}
	if out, err := exec.CommandContext(t.Context(), program, append(args, reference)...).CombinedOutput(); err != nil {
		t.Errorf("cosign verify %s: %v: %s", reference, err, out)
	}
}

// emptyRoot is a trusted root that vouches for nobody: keys need none, and cosign asks the network for one otherwise.
func emptyRoot(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(file, []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// An image that somebody else signed with cosign's command, in cosign 3's form, verifies at every receiver: by the
// policy's rule for images before it leaves, and by cosign's own command where it arrives.
func TestForeignImageInCosign3Form(t *testing.T) {
	program, err := signingtest.Cosign()
	if err != nil {
		t.Logf("LEFT OUT: %v", err)
		return
	}
	dir := t.TempDir()
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, pub, root := filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub"), emptyRoot(t)
	for file, data := range map[string][]byte{key: private, pub: public} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cosign := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cosign %s: %v: %s", args[0], err, out)
		}
	}
	w := newWorld(t, tiny)
	// Without the fleet's own signatures, which would do as well.
	w.images = newServer(t)
	w.fleet.ImageHost = w.images.Addr
	host, err := w.host(w.images.Addr)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := w.fleet.PushImages(t.Context(), host, nil)
	if err != nil {
		t.Fatal(err)
	}
	cosign("sign", "--key", key, "--tlog-upload=false", "--new-bundle-format", "--allow-http-registry", "-y", w.images.Addr+"/apps/app-00@"+digests[0].String())
	if err := w.fleet.Publish(t.Context(), w.centre.Registry(t), digests, w.signer.Sign); err != nil {
		t.Fatal(err)
	}
	rule := func(match string, key []byte) v1alpha1.TrustRule {
		return v1alpha1.TrustRule{Match: match, Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "k", PublicKey: string(key)}}}}
	}
	if w.verifier, err = signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: []v1alpha1.TrustRule{
		rule("**", w.signer.PublicKey()), rule(v1alpha1.ImageScheme+"**", public),
	}}}, signing.Options{}); err != nil {
		t.Fatal(err)
	}
	if refused := w.find(t).Refused; len(refused) > 0 {
		t.Fatalf("refused: %v", refused)
	}
	medium := w.export(t, nil, 0)
	name, err := oci.ParseImage(w.fleet.Image(0))
	if err != nil {
		t.Fatal(err)
	}
	for kind, addr := range receivers(t) {
		t.Run(kind, func(t *testing.T) {
			site, err := oci.Open(addr+"/fleet", oci.Options{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			w.mustImport(t, site, medium)
			cosign("verify", "--key", pub, "--insecure-ignore-tlog=true", "--allow-http-registry", "--new-bundle-format", "--trusted-root", root,
				addr+"/fleet/"+name.Mirrored()+"@"+digests[0].String())
		})
	}
}
