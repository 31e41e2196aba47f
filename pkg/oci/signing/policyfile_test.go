package signing_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

func importedKeys(t *testing.T) map[string][]byte {
	t.Helper()
	keys := map[string]any{}
	var err error
	if keys["P-384"], err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, keys["Ed25519"], err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if keys["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return out
}

const policyText = `apiVersion: pinnace.dev/v1alpha1
kind: TrustPolicy
spec:
  rules:
    - match: "**"
      signers: {keys: [{name: %s, file: %[1]s.pub}]}
`

// replace writes a file as people and Kubernetes do: another one takes its place.
func replace(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Error(err)
	}
}

// A policy that changes, and a key that is rotated behind the same name, are in force at the next look; one that cannot
// be read leaves the one before in force. Meanwhile others verify.
func TestPolicyChangesWhileItIsUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := signer(t, 0), signer(t, 1)
	write(t, dir, "a.pub", a.PublicKey())
	write(t, dir, "b.pub", b.PublicKey())
	file := filepath.Join(dir, "trust.yaml")
	replace(t, file, fmt.Sprintf(policyText, "a"))
	verifier, err := signing.LoadPolicy(file, signing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, desc := web(t, "changes")
	sign(t, a, repo, desc)
	other := push(t, repo, "signed by b")
	sign(t, b, repo, other)

	stop := make(chan struct{})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := verifier.Refresh(); err != nil && !strings.Contains(err.Error(), "trust.yaml") {
					t.Errorf("refresh: %v", err)
				}
				_, errA := verifier.Verify(t.Context(), repo, "bundles/web", desc)
				_, errB := verifier.Verify(t.Context(), repo, "bundles/web", other)
				for _, err := range []error{errA, errB} {
					if err != nil && !errors.As(err, new(*signing.Error)) {
						t.Errorf("verify: %v", err)
					}
				}
			}
		})
	}
	refreshed := func() {
		t.Helper()
		if _, err := verifier.Refresh(); err != nil {
			t.Error(err)
		}
	}
	for range 20 {
		replace(t, file, fmt.Sprintf(policyText, "b"))
		refreshed()
		wantReason(t, verifier, repo, desc, signing.KeyNotTrusted)
		wantReason(t, verifier, repo, other, "")
		replace(t, file, fmt.Sprintf(policyText, "a"))
		refreshed()
		wantReason(t, verifier, repo, desc, "")
		wantReason(t, verifier, repo, other, signing.KeyNotTrusted)
		replace(t, filepath.Join(dir, "a.pub"), string(b.PublicKey()))
		refreshed()
		wantReason(t, verifier, repo, desc, signing.KeyNotTrusted)
		replace(t, filepath.Join(dir, "a.pub"), string(a.PublicKey()))
		refreshed()
		wantReason(t, verifier, repo, desc, "")
	}
	close(stop)
	users.Wait()

	replace(t, file, "kind: Nonsense")
	if _, err := verifier.Refresh(); err == nil {
		t.Error("nonsense is taken")
	}
	wantReason(t, verifier, repo, desc, "")
}

func TestImageRules(t *testing.T) {
	t.Parallel()
	a, b := signer(t, 0), signer(t, 1)
	registry := oci.NewMemory()
	repo, err := registry.Repository("acme/app")
	if err != nil {
		t.Fatal(err)
	}
	signed, byOther := push(t, repo, "app"), push(t, repo, "another app")
	sign(t, a, repo, signed)
	sign(t, b, repo, byOther)
	rules := []v1alpha1.TrustRule{
		{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("b", b)}}},
		{Match: "images://ghcr.io/acme/**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("a", a)}}},
		{Match: "images://docker.io/library/*", UnsafeAllowUnsigned: true},
	}
	open := func(image oci.ImageName) ([]oci.Repository, error) {
		mirror, err := registry.Repository(image.Mirrored())
		if err != nil {
			return nil, err
		}
		own, err := registry.Repository(image.Repository)
		return []oci.Repository{mirror, own}, err
	}
	verifier, err := signing.NewVerifier(policy(rules...), signing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]signing.Reason{
		"ghcr.io/acme/app@" + signed.Digest.String():              "",
		"ghcr.io/acme/app:v1@" + signed.Digest.String():           "",
		"ghcr.io/acme/app@" + byOther.Digest.String():             signing.KeyNotTrusted,
		"ghcr.io/acme/app:v1":                                     signing.ImageNotPinned,
		"ghcr.io/evil/app@" + signed.Digest.String():              signing.NoRule,
		"ghcr.io.evil.example/acme/app@" + signed.Digest.String(): signing.NoRule,
		"nginx":           "",
		"nginx@sha256:12": signing.ImageNotPinned,
	} {
		err := verifier.VerifyImage(t.Context(), reference, open)
		var refusal *signing.Error
		if errors.As(err, &refusal) != (want != "") || refusal != nil && refusal.Reason != want || want == "" && err != nil {
			t.Errorf("%s: got %v, want %q", reference, err, want)
		}
	}
	absent := "ghcr.io/acme/app@" + push(t, repo, "x").Digest.String()
	elsewhere := func(oci.ImageName) ([]oci.Repository, error) {
		repo, err := oci.NewMemory().Repository("empty")
		return []oci.Repository{repo}, err
	}
	if err := verifier.VerifyImage(t.Context(), absent, elsewhere); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("an absent image: %v", err)
	}
	if !verifier.ImageRules() || keyVerifier(t, a).ImageRules() {
		t.Error("image rules are said where there are none, or the other way round")
	}
}

func TestBadPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "root.json", []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	write(t, dir, "bad.json", []byte(`{}`))
	a := v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("a", signer(t, 0))}}
	identity := func(change func(*v1alpha1.Identity)) v1alpha1.TrustPolicy {
		identity := v1alpha1.Identity{Issuer: "https://issuer", Identity: "me", TrustedRoot: "root.json"}
		change(&identity)
		return policy(v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{Keyless: []v1alpha1.Identity{identity}}})
	}
	attested := func(attestation v1alpha1.Attestation) v1alpha1.TrustPolicy {
		return policy(v1alpha1.TrustRule{Match: "**", Signers: a, Attestations: []v1alpha1.Attestation{attestation}})
	}
	transparent := policy(v1alpha1.TrustRule{Match: "**", Signers: a})
	transparent.Spec.Transparency.Keys = v1alpha1.TransparencyRequired
	unknown := policy(v1alpha1.TrustRule{Match: "**", Signers: a})
	unknown.Spec.Transparency.Keyless = "maybe"
	for want, spec := range map[string]v1alpha1.TrustPolicy{
		"set exactly one of issuer":     identity(func(i *v1alpha1.Identity) { i.Issuer = "" }),
		"set exactly one of identity":   identity(func(i *v1alpha1.Identity) { i.IdentityRegExp = ".*" }),
		"missing closing )":             identity(func(i *v1alpha1.Identity) { i.Identity, i.IdentityRegExp = "", "(" }),
		"unexpected )":                  identity(func(i *v1alpha1.Identity) { i.Identity, i.IdentityRegExp = "", "a)|(b" }),
		"trustedRoot: none":             identity(func(i *v1alpha1.Identity) { i.TrustedRoot = "" }),
		"trustedRoot: open":             identity(func(i *v1alpha1.Identity) { i.TrustedRoot = "absent.json" }),
		"trustedRoot bad.json":          identity(func(i *v1alpha1.Identity) { i.TrustedRoot = "bad.json" }),
		"type: empty":                   attested(v1alpha1.Attestation{}),
		"which signers ask for already": attested(v1alpha1.Attestation{Type: "https://sigstore.dev/cosign/sign/v1"}),
		"undeclared reference":          attested(v1alpha1.Attestation{Type: "t", Expression: "env.HOME == ''"}),
		"not a boolean":                 attested(v1alpha1.Attestation{Type: "t", Expression: "'text'"}),
		"needs the log's key":           transparent,
		"neither required nor ignore":   unknown,
		"only for container images":     policy(v1alpha1.TrustRule{Match: "bundles/**", UnsafeAllowUnsigned: true}),
		"threshold 1 of 0 signers":      policy(v1alpha1.TrustRule{Match: "**"}),
	} {
		if _, err := signing.NewVerifier(spec, signing.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
