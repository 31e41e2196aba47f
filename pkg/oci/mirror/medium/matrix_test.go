package medium_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

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
		"with referrers": registrytest.Wrap(t, registry.New(registry.WithReferrersSupport(true))).Addr,
	}
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Log("LEFT OUT: Debian's docker-registry is not installed (apt-get install docker-registry)")
		return out
	}
	out["debian"] = startDebian(t, program)
	return out
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

// Signatures in every form arrive at every kind of registry, and verify there: by the policy, and by stock cosign.
func TestSignaturesArriveEverywhere(t *testing.T) {
	for _, format := range []evidence.Format{evidence.FormatTag, evidence.FormatReferrer, evidence.FormatBundle} {
		w := newWorld(t, tiny)
		signer, err := w.signer.With(signing.SignOptions{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		fresh := newServer(t) // without the signatures of the usual form
		w.centre, w.images = fresh, newServer(t)
		w.fleet.ImageHost, w.signer = w.images.Addr, signer
		w.publish(t)
		dir := w.export(t, nil, 0)
		for name, addr := range receivers(t) {
			t.Run(string(format)+" at "+name, func(t *testing.T) {
				site, err := oci.Open(addr+"/fleet", oci.Options{PlainHTTP: true})
				if err != nil {
					t.Fatal(err)
				}
				w.mustImport(t, site, dir)
				w.check(t, site, "site-00")
				w.stock(t, format, addr+"/fleet/"+v1alpha1.TargetRepository("site-00")+":current")
			})
		}
	}
}

// stock verifies with the command as people have it.
func (w *world) stock(t *testing.T, format evidence.Format, reference string) {
	t.Helper()
	if format == evidence.FormatBundle {
		stock, err := signingtest.StockByKey(w.signer.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if err := stock.Bundled(t.Context(), reference); err != nil {
			t.Errorf("cosign's library: %v", err)
		}
		return
	}
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
	if format == evidence.FormatReferrer {
		args = append(args, "--experimental-oci11")
	}
	if out, err := exec.CommandContext(t.Context(), program, append(args, reference)...).CombinedOutput(); err != nil {
		t.Errorf("cosign verify: %v: %s", err, out)
	}
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
	key, pub, root := filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub"), filepath.Join(dir, "root.json")
	for file, data := range map[string][]byte{
		key: private, pub: public, root: []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
	} {
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
