package signing_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/keyless"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// What stock cosign does is compared with what we do, on the embedded registry, which has no referrers API as many.

const (
	ciIdentity = "ci@acme.example"
	ciIssuer   = "https://issuer.acme.example"
)

// site is a registry with a key pair on disk, and a Sigstore.
type site struct {
	t        *testing.T
	dir      string
	addr     string
	registry oci.Registry
	signer   *signing.Signer
	sigstore *signingtest.Sigstore
	cosign   string
}

var startSigstore = sync.OnceValues(signingtest.Start)

func newSite(t *testing.T) *site {
	t.Helper()
	cosign, err := signingtest.Cosign()
	if err != nil {
		t.Fatal(err)
	}
	server, err := registry.Start(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	opened, err := oci.Open(server.Addr+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	sigstore, err := startSigstore()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: t.TempDir(), addr: server.Addr, registry: opened, sigstore: sigstore, cosign: cosign}
	private, public, err := signing.GenerateKey([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	s.file("cosign.key", private)
	s.file("cosign.pub", public)
	s.file("trusted_root.json", sigstore.TrustedRoot)
	s.file("empty_root.json", []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	if s.signer, err = signing.LoadSigner(private, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) file(name string, data []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// push stores an artifact and returns what cosign calls it.
func (s *site) push(name, content string) (oci.Repository, ocispec.Descriptor, string) {
	s.t.Helper()
	repo, err := s.registry.Repository(name)
	if err != nil {
		s.t.Fatal(err)
	}
	desc := push(s.t, repo, content)
	return repo, desc, fmt.Sprintf("%s/fleet/%s@%s", s.addr, name, desc.Digest)
}

// run runs stock cosign without a home, so that nothing it found elsewhere helps.
func (s *site) run(env []string, args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.cosign, args...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH"), "COSIGN_PASSWORD=secret"}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (s *site) must(env []string, args ...string) {
	s.t.Helper()
	if out, err := s.run(env, args...); err != nil {
		s.t.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (s *site) keyless() *signing.Signer {
	s.t.Helper()
	signer, err := keyless.New(keyless.Options{
		Fulcio: s.sigstore.URL, Rekor: s.sigstore.URL, Timestamp: s.sigstore.TimestampURL(),
		Token: keyless.Token(signingtest.Token(ciIdentity, ciIssuer)), TrustedRoot: s.sigstore.TrustedRoot,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return signer
}

func (s *site) keyRule() v1alpha1.TrustRule {
	return v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "release", File: "cosign.pub"}}}}
}

func (s *site) keylessRule() v1alpha1.TrustRule {
	return v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{Keyless: []v1alpha1.Identity{
		{Name: "ci", Issuer: ciIssuer, IdentityRegExp: `.+@acme\.example`, TrustedRoot: "trusted_root.json"},
	}}}
}

func (s *site) verifier(rules ...v1alpha1.TrustRule) *signing.Verifier {
	s.t.Helper()
	verifier, err := signing.NewVerifier(policy(rules...), signing.Options{Dir: s.dir})
	if err != nil {
		s.t.Fatal(err)
	}
	return verifier
}

func TestCosignVerifiesWhatWeSign(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	keyed := []string{"verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true"}
	bundled := slices.Concat(keyed, []string{"--new-bundle-format", "--trusted-root", "empty_root.json"})
	for _, test := range []struct {
		name    string
		options signing.SignOptions
		env     []string
		args    []string
	}{
		{name: "tag", args: keyed},
		{
			name: "tag with annotations", options: signing.SignOptions{Annotations: map[string]string{"stage": "canary"}},
			args: append(keyed[:len(keyed):len(keyed)], "-a", "stage=canary"),
		},
		{
			name: "referrer", options: signing.SignOptions{Format: evidence.FormatReferrer},
			env: []string{"COSIGN_EXPERIMENTAL=1"}, args: append(keyed[:len(keyed):len(keyed)], "--experimental-oci11"),
		},
		{name: "bundle", options: signing.SignOptions{Format: evidence.FormatBundle}, args: bundled},
	} {
		t.Run(test.name, func(t *testing.T) {
			signer, err := s.signer.With(test.options)
			if err != nil {
				t.Fatal(err)
			}
			repo, desc, ref := s.push("bundles/web", test.name)
			if _, err := signer.Sign(t.Context(), repo, desc); err != nil {
				t.Fatal(err)
			}
			s.must(test.env, append(test.args, ref)...)
			_, _, other := s.push("bundles/web", "not signed: "+test.name)
			if out, err := s.run(test.env, append(test.args, other)...); err == nil {
				t.Errorf("cosign accepts what nobody signed, so accepting proves nothing:\n%s", out)
			}
			if _, err := s.verifier(s.keyRule()).Verify(t.Context(), repo, "bundles/web", desc); err != nil {
				t.Errorf("we refuse it: %v", err)
			}
		})
	}
}

func TestCosignVerifiesOurBatches(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var items []signing.Item
	var refs []string
	for i := range 3 {
		repo, desc, ref := s.push(fmt.Sprintf("targets/factory-%02d", i), fmt.Sprint("target ", i))
		items, refs = append(items, signing.Item{Repository: repo, Descriptor: desc}), append(refs, ref)
	}
	made, err := s.keyless().SignAll(t.Context(), items, 2)
	if err != nil || made != 1 {
		t.Fatalf("got %d signatures and %v, want 1", made, err)
	}
	for _, ref := range refs {
		s.must(nil, "verify", "--new-bundle-format", "--trusted-root", "trusted_root.json", "--insecure-ignore-sct",
			"--certificate-identity", ciIdentity, "--certificate-oidc-issuer", ciIssuer, ref)
	}
	_, _, other := s.push("targets/factory-00", "nobody signed this")
	if out, err := s.run(nil, "verify", "--new-bundle-format", "--trusted-root", "trusted_root.json", "--insecure-ignore-sct",
		"--certificate-identity", ciIdentity, "--certificate-oidc-issuer", ciIssuer, other); err == nil {
		t.Errorf("cosign accepts what nobody signed:\n%s", out)
	}
}

func TestWeVerifyWhatCosignSigns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.file("token", []byte(signingtest.Token(ciIdentity, ciIssuer)))
	rekorKey := s.file("rekor.pub", s.sigstore.LogKey())
	keyed := []string{"sign", "--yes", "--key", "cosign.key", "--tlog-upload=false"}
	identified := []string{
		"sign", "--yes", "--fulcio-url", s.sigstore.URL, "--rekor-url", s.sigstore.URL, "--identity-token", token,
		"--insecure-skip-verify", "--trusted-root", "trusted_root.json",
	}
	for _, test := range []struct {
		name string
		env  []string
		args []string
		rule v1alpha1.TrustRule
	}{
		{name: "key, tag", args: keyed, rule: s.keyRule()},
		{name: "key, annotations", args: append(keyed[:len(keyed):len(keyed)], "-a", "stage=canary"), rule: s.keyRule()},
		{
			name: "key, referrer", env: []string{"COSIGN_EXPERIMENTAL=1"},
			args: append(keyed[:len(keyed):len(keyed)], "--registry-referrers-mode=oci-1-1"), rule: s.keyRule(),
		},
		{name: "key, bundle", args: append(keyed[:len(keyed):len(keyed)], "--new-bundle-format"), rule: s.keyRule()},
		{
			name: "keyless, tag", env: []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + rekorKey},
			args: identified, rule: s.keylessRule(),
		},
		{
			name: "keyless, bundle", env: []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + rekorKey},
			args: append(identified[:len(identified):len(identified)], "--new-bundle-format"), rule: s.keylessRule(),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			repo, desc, ref := s.push("bundles/web", test.name)
			s.must(test.env, append(test.args, ref)...)
			verified, err := s.verifier(test.rule).Verify(t.Context(), repo, "bundles/web", desc)
			if err != nil {
				t.Fatal(err)
			}
			if len(verified.Signers()) != 1 {
				t.Errorf("signers %q, want one", verified.Signers())
			}
			// A rule that names somebody else refuses the same signature.
			other := test.rule
			other.Signers = v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("other", signer(t, 0))}}
			if _, err := s.verifier(other).Verify(t.Context(), repo, "bundles/web", desc); err == nil {
				t.Error("a rule with another key accepts it")
			}
		})
	}
}

func TestWeVerifyCosignsAttestations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.file("predicate.json", []byte(`{"buildDefinition":{"buildType":"https://example.com/build","externalParameters":{"ref":"refs/heads/main"}},"runDetails":{"builder":{"id":"https://example.com/ci"}}}`))
	rule := func(expression string) v1alpha1.TrustRule {
		rule := s.keyRule()
		rule.Attestations = []v1alpha1.Attestation{{Type: "https://slsa.dev/provenance/v1", Expression: expression}}
		return rule
	}
	const main = "predicate.buildDefinition.externalParameters.ref == 'refs/heads/main'"
	for _, format := range []string{"tag", "bundle"} {
		t.Run(format, func(t *testing.T) {
			repo, desc, ref := s.push("bundles/web", "attested in "+format)
			if _, err := s.signer.Sign(t.Context(), repo, desc); err != nil {
				t.Fatal(err)
			}
			wantReason(t, s.verifier(rule(main)), repo, desc, signing.AttestationMissing)
			args := []string{
				"attest", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--type", "slsaprovenance1", "--predicate", "predicate.json",
			}
			if format == "bundle" {
				args = append(args, "--new-bundle-format")
			}
			s.must(nil, append(args, ref)...)
			wantReason(t, s.verifier(rule(main)), repo, desc, "")
			wantReason(t, s.verifier(rule("predicate.buildDefinition.externalParameters.ref == 'refs/heads/evil'")), repo, desc, signing.AttestationRefused)
			wantReason(t, s.verifier(rule("predicate.absent.key == 'x'")), repo, desc, signing.AttestationRefused)

			// An attestation alone is no signature.
			repo, desc, ref = s.push("bundles/web", "only attested in "+format)
			s.must(nil, append(args, ref)...)
			wantReason(t, s.verifier(s.keyRule()), repo, desc, signing.SignatureMissing)
		})
	}
}
