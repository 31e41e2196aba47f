package signing_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Keys are slow to make: three are enough for all tests.
var keys [3]func() (*signing.Signer, error)

func init() {
	for i := range keys {
		keys[i] = sync.OnceValues(func() (*signing.Signer, error) {
			private, _, err := signing.GenerateKey([]byte("secret"))
			if err != nil {
				return nil, err
			}
			return signing.LoadSigner(private, []byte("secret"))
		})
	}
}

func signer(t *testing.T, i int) *signing.Signer {
	t.Helper()
	signer, err := keys[i]()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func push(t *testing.T, repo oci.Repository, content string) ocispec.Descriptor {
	t.Helper()
	desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: []byte(content)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func key(name string, signer *signing.Signer) v1alpha1.PublicKey {
	return v1alpha1.PublicKey{Name: name, PublicKey: string(signer.PublicKey())}
}

func policy(rules ...v1alpha1.TrustRule) v1alpha1.TrustPolicy {
	return v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: rules}}
}

func TestVerify(t *testing.T) {
	a, b, stranger := signer(t, 0), signer(t, 1), signer(t, 2)
	const name = "targets/factory-01"
	rule := func(match string, threshold int, keys ...v1alpha1.PublicKey) v1alpha1.TrustRule {
		return v1alpha1.TrustRule{Match: match, Signers: v1alpha1.Signers{Threshold: threshold, Keys: keys}}
	}
	for _, test := range []struct {
		name    string
		policy  v1alpha1.TrustPolicy
		signers []*signing.Signer
		copied  bool // the signature was copied from another artifact
		want    signing.Reason
		counted []string
	}{
		{name: "signed by the key", policy: policy(rule("targets/**", 1, key("a", a))), signers: []*signing.Signer{a}, counted: []string{"a"}},
		{name: "nobody signed", policy: policy(rule("**", 1, key("a", a))), want: signing.SignatureMissing},
		{name: "a stranger signed", policy: policy(rule("**", 1, key("a", a))), signers: []*signing.Signer{stranger}, want: signing.KeyNotTrusted},
		{name: "the key signed among strangers", policy: policy(rule("**", 1, key("a", a))), signers: []*signing.Signer{stranger, a, b}, counted: []string{"a"}},
		{name: "two of two", policy: policy(rule("**", 2, key("a", a), key("b", b))), signers: []*signing.Signer{a, b}, counted: []string{"a", "b"}},
		{name: "one of two", policy: policy(rule("**", 2, key("a", a), key("b", b))), signers: []*signing.Signer{a, a}, want: signing.ThresholdNotMet},
		{name: "no rule", policy: policy(rule("bundles/**", 1, key("a", a))), signers: []*signing.Signer{a}, want: signing.NoRule},
		{
			name: "the most specific rule wins", signers: []*signing.Signer{a}, want: signing.KeyNotTrusted,
			policy: policy(rule("**", 1, key("a", a)), rule("targets/factory-*", 1, key("b", b))),
		},
		{name: "a star stays in its segment", policy: policy(rule("*", 1, key("a", a))), signers: []*signing.Signer{a}, want: signing.NoRule},
		{name: "a genuine signature of another artifact", policy: policy(rule("**", 1, key("a", a))), copied: true, want: signing.SignatureMismatch},
	} {
		t.Run(test.name, func(t *testing.T) {
			repo, err := oci.NewMemory().Repository(name)
			if err != nil {
				t.Fatal(err)
			}
			desc := push(t, repo, `{"wanted":true}`)
			for _, signer := range test.signers {
				if _, err := signer.Sign(t.Context(), repo, desc); err != nil {
					t.Fatal(err)
				}
			}
			if test.copied {
				other := push(t, repo, `{"other":true}`)
				if _, err := a.Sign(t.Context(), repo, other); err != nil {
					t.Fatal(err)
				}
				copySignature(t, repo, other, desc)
			}
			verifier, err := signing.NewVerifier(test.policy, signing.Options{})
			if err != nil {
				t.Fatal(err)
			}
			verified, err := verifier.Verify(t.Context(), repo, name, desc)
			var refusal *signing.Error
			if errors.As(err, &refusal) != (test.want != "") || refusal != nil && refusal.Reason != test.want {
				t.Fatalf("got %v, want reason %q", err, test.want)
			}
			if got := verified.IsZero(); got != (test.want != "") {
				t.Errorf("got a zero proof: %v, with error %v", got, err)
			}
			if diff := cmp.Diff(test.counted, verified.Signers()); diff != "" {
				t.Errorf("signers (-want +got):\n%s", diff)
			}
		})
	}
}

func copySignature(t *testing.T, repo oci.Repository, from, to ocispec.Descriptor) {
	t.Helper()
	desc, err := repo.Resolve(t.Context(), oci.SignatureTag(from.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Tag(t.Context(), desc, oci.SignatureTag(to.Digest)); err != nil {
		t.Fatal(err)
	}
}

func TestSignTwiceWritesOnce(t *testing.T) {
	a, b := signer(t, 0), signer(t, 1)
	repo, _ := oci.NewMemory().Repository("bundles/web")
	desc := push(t, repo, "{}")
	var got []bool
	for _, signer := range []*signing.Signer{a, b, a, b} {
		created, err := signer.Sign(t.Context(), repo, desc)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, created)
	}
	if want := []bool{true, true, false, false}; !slices.Equal(got, want) {
		t.Errorf("got created %v, want %v", got, want)
	}
	signatures, err := repo.Resolve(t.Context(), oci.SignatureTag(desc.Digest))
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := oci.ReadManifest(t.Context(), repo, signatures)
	if err != nil || len(manifest.Layers) != 2 {
		t.Errorf("got %d signatures and %v, want 2", len(manifest.Layers), err)
	}
}

func TestNothingUnverifiedIsFetched(t *testing.T) {
	repo, _ := oci.NewMemory().Repository("targets/a")
	push(t, repo, "{}")
	if _, err := oci.FetchTarget(t.Context(), repo, oci.Verified{}); !errors.Is(err, oci.ErrNotVerified) {
		t.Errorf("target: got %v, want %v", err, oci.ErrNotVerified)
	}
	if _, err := oci.FetchBundle(t.Context(), repo, oci.Verified{}); !errors.Is(err, oci.ErrNotVerified) {
		t.Errorf("bundle: got %v, want %v", err, oci.ErrNotVerified)
	}
}

func TestPolicyErrors(t *testing.T) {
	a := signer(t, 0)
	for name, rules := range map[string][]v1alpha1.TrustRule{
		"no rule":          nil,
		"no match":         {{Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("a", a)}}}},
		"no key":           {{Match: "**"}},
		"one key twice":    {{Match: "**", Signers: v1alpha1.Signers{Threshold: 2, Keys: []v1alpha1.PublicKey{key("a", a), key("b", a)}}}},
		"never met":        {{Match: "**", Signers: v1alpha1.Signers{Threshold: 2, Keys: []v1alpha1.PublicKey{key("a", a)}}}},
		"not a key":        {{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "a", PublicKey: "x"}}}}},
		"absent file":      {{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "a", File: "absent.pub"}}}}},
		"two ways at once": {{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "a", File: "x", PublicKey: "y"}}}}},
	} {
		if _, err := signing.NewVerifier(policy(rules...), signing.Options{Dir: t.TempDir()}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestWarnReportsAndLetsPass(t *testing.T) {
	a := signer(t, 0)
	repo, _ := oci.NewMemory().Repository("targets/a")
	desc := push(t, repo, "{}")
	p := policy(v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{key("a", a)}}})
	p.Spec.Mode = v1alpha1.PolicyWarn
	var warned []signing.Reason
	verifier, err := signing.NewVerifier(p, signing.Options{Warn: func(e *signing.Error) { warned = append(warned, e.Reason) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), repo, "targets/a", desc); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(warned, []signing.Reason{signing.SignatureMissing}) {
		t.Errorf("got warnings %v, want one of %s", warned, signing.SignatureMissing)
	}
}

func TestWrongPassword(t *testing.T) {
	private, _, err := signing.GenerateKey([]byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signing.LoadSigner(private, []byte("wrong")); !errors.Is(err, signing.ErrPassword) {
		t.Errorf("got %v, want %v", err, signing.ErrPassword)
	}
}

func TestEnvelope(t *testing.T) {
	a, b := signer(t, 0), signer(t, 1)
	ctx := context.Background()
	envelope, err := a.SignEnvelope(ctx, v1alpha1.MediaTypeStatus, []byte(`{"ready":true}`))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signing.OpenEnvelope(a.PublicKey(), v1alpha1.MediaTypeStatus, envelope)
	if err != nil || string(payload) != `{"ready":true}` {
		t.Errorf("got %q and %v", payload, err)
	}
	if _, err := signing.OpenEnvelope(b.PublicKey(), v1alpha1.MediaTypeStatus, envelope); err == nil {
		t.Error("another key's envelope was opened")
	}
	if _, err := signing.OpenEnvelope(a.PublicKey(), v1alpha1.MediaTypeTarget, envelope); err == nil {
		t.Error("an envelope of another type was opened")
	}
	var changed map[string]any
	if err := json.Unmarshal(envelope, &changed); err != nil {
		t.Fatal(err)
	}
	changed["payload"] = "eyJyZWFkeSI6ZmFsc2V9"
	data, _ := json.Marshal(changed)
	if _, err := signing.OpenEnvelope(a.PublicKey(), v1alpha1.MediaTypeStatus, data); err == nil {
		t.Error("a changed payload was opened")
	}
}

// wantReason verifies and compares the refusal's reason; empty for none.
func wantReason(t *testing.T, verifier *signing.Verifier, repo oci.Repository, desc ocispec.Descriptor, want signing.Reason) {
	t.Helper()
	_, err := verifier.Verify(t.Context(), repo, "bundles/web", desc)
	var refusal *signing.Error
	if err != nil && !errors.As(err, &refusal) {
		t.Errorf("got %v, want reason %q", err, want)
		return
	}
	var got signing.Reason
	if refusal != nil {
		got = refusal.Reason
	}
	if got != want {
		t.Errorf("got %v, want reason %q", err, want)
	}
}
