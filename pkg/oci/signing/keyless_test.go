package signing_test

import (
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/keyless"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// identified is a signer who is whoever the token names.
func identified(t *testing.T, sigstore *signingtest.Sigstore, subject, issuer string, change func(*keyless.Options)) *signing.Signer {
	t.Helper()
	options := keyless.Options{Fulcio: sigstore.URL, Rekor: sigstore.URL, Token: keyless.Token(signingtest.Token(subject, issuer))}
	if change != nil {
		change(&options)
	}
	signer, err := keyless.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func start(t *testing.T) *signingtest.Sigstore {
	t.Helper()
	sigstore, err := signingtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sigstore.Close)
	return sigstore
}

func web(t *testing.T, content string) (oci.Repository, ocispec.Descriptor) {
	t.Helper()
	repo, err := oci.NewMemory().Repository("bundles/web")
	if err != nil {
		t.Fatal(err)
	}
	return repo, push(t, repo, content)
}

func sign(t *testing.T, signer *signing.Signer, repo oci.Repository, desc ocispec.Descriptor) {
	t.Helper()
	if _, err := signer.Sign(t.Context(), repo, desc); err != nil {
		t.Fatal(err)
	}
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	home, foreign := start(t), start(t)
	dir := t.TempDir()
	write(t, dir, "home.json", home.TrustedRoot)
	const issuer, workflow = "https://token.actions.example", "https://github.example/acme/shop/.github/workflows/release.yaml@refs/heads/main"
	rule := func(change func(*v1alpha1.Identity)) v1alpha1.TrustRule {
		identity := v1alpha1.Identity{Issuer: issuer, Identity: workflow, TrustedRoot: "home.json"}
		if change != nil {
			change(&identity)
		}
		return v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{Keyless: []v1alpha1.Identity{identity}}}
	}
	matching := func(expression string) func(*v1alpha1.Identity) {
		return func(i *v1alpha1.Identity) { i.Identity, i.IdentityRegExp = "", expression }
	}
	stamped := func(o *keyless.Options) { o.Rekor, o.Timestamp = "", home.TimestampURL() }
	for _, test := range []struct {
		name   string
		signer *signing.Signer
		rule   v1alpha1.TrustRule
		policy func(*v1alpha1.TrustPolicySpec)
		want   signing.Reason
	}{
		{name: "exact", signer: identified(t, home, workflow, issuer, nil), rule: rule(nil)},
		{name: "expression", signer: identified(t, home, workflow, issuer, nil), rule: rule(matching(`^https://github\.example/acme/.+`))},
		{
			name: "expressions match the whole", want: signing.IdentityNotTrusted,
			signer: identified(t, home, "https://evil.example/?https://github.example/acme/", issuer, nil),
			rule:   rule(matching(`https://github\.example/acme/`)),
		},
		{
			name: "an alternative leaves nothing open", want: signing.IdentityNotTrusted,
			signer: identified(t, home, "https://evil.example/b", issuer, nil), rule: rule(matching(`https://github\.example/a|b`)),
		},
		{
			name: "another issuer", want: signing.IdentityNotTrusted,
			signer: identified(t, home, workflow, "https://evil.example", nil), rule: rule(nil),
		},
		{
			name: "an issuer that ends alike", want: signing.IdentityNotTrusted,
			signer: identified(t, home, workflow, "https://evil.example/"+issuer, nil),
			rule:   rule(func(i *v1alpha1.Identity) { i.Issuer, i.IssuerRegExp = "", `https://token\.actions\.example` }),
		},
		{name: "another authority", signer: identified(t, foreign, workflow, issuer, nil), rule: rule(nil), want: signing.CertificateInvalid},
		{name: "no log", signer: identified(t, home, workflow, issuer, stamped), rule: rule(nil), want: signing.TransparencyMissing},
		{
			name: "a timestamp where no log is wanted", signer: identified(t, home, workflow, issuer, stamped), rule: rule(nil),
			policy: func(p *v1alpha1.TrustPolicySpec) { p.Transparency.Keyless = v1alpha1.TransparencyIgnore },
		},
		{
			name: "no timestamp where no log is wanted", signer: identified(t, home, workflow, issuer, nil), rule: rule(nil),
			policy: func(p *v1alpha1.TrustPolicySpec) { p.Transparency.Keyless = v1alpha1.TransparencyIgnore },
			want:   signing.CertificateInvalid,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			repo, desc := web(t, test.name)
			sign(t, test.signer, repo, desc)
			spec := policy(test.rule)
			if test.policy != nil {
				test.policy(&spec.Spec)
			}
			verifier, err := signing.NewVerifier(spec, signing.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			wantReason(t, verifier, repo, desc, test.want)
		})
	}
}

func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	sigstore := start(t)
	dir := t.TempDir()
	write(t, dir, "root.json", sigstore.TrustedRoot)
	sigstore.Backdate.Store(int64(time.Hour)) // the log saw it long after the certificate had ended
	repo, desc := web(t, "late")
	sign(t, identified(t, sigstore, ciIdentity, ciIssuer, nil), repo, desc)
	verifier, err := signing.NewVerifier(policy(v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{
		Keyless: []v1alpha1.Identity{{Issuer: ciIssuer, Identity: ciIdentity, TrustedRoot: "root.json"}},
	}}), signing.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, verifier, repo, desc, signing.CertificateInvalid)
}

// One who fits two entries of a rule, or signs twice, counts once.
func TestThresholdOfIdentities(t *testing.T) {
	t.Parallel()
	sigstore := start(t)
	dir := t.TempDir()
	write(t, dir, "root.json", sigstore.TrustedRoot)
	rule := v1alpha1.TrustRule{Match: "**", Signers: v1alpha1.Signers{
		Threshold: 2,
		Keys:      []v1alpha1.PublicKey{key("release", signer(t, 0))},
		Keyless: []v1alpha1.Identity{
			{Name: "anybody", Issuer: ciIssuer, IdentityRegExp: `.+@acme\.example`, TrustedRoot: "root.json"},
			{Name: "ci", Issuer: ciIssuer, Identity: ciIdentity, TrustedRoot: "root.json"},
		},
	}}
	for name, test := range map[string]struct {
		subjects []string
		key      bool
		want     signing.Reason
	}{
		"one who fits both entries":      {subjects: []string{ciIdentity}, want: signing.ThresholdNotMet},
		"one twice":                      {subjects: []string{ciIdentity, ciIdentity}, want: signing.ThresholdNotMet},
		"two, one of whom fits only one": {subjects: []string{ciIdentity, "jo@acme.example"}},
		"two for one entry":              {subjects: []string{"jo@acme.example", "al@acme.example"}, want: signing.ThresholdNotMet},
		"an identity and a key":          {subjects: []string{"jo@acme.example"}, key: true},
	} {
		t.Run(name, func(t *testing.T) {
			repo, desc := web(t, name)
			for _, subject := range test.subjects {
				sign(t, identified(t, sigstore, subject, ciIssuer, nil), repo, desc)
			}
			if test.key {
				sign(t, signer(t, 0), repo, desc)
			}
			verifier, err := signing.NewVerifier(policy(rule), signing.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			wantReason(t, verifier, repo, desc, test.want)
		})
	}
}

// The same identity signs once, whether somebody named a trusted root or not, and without asking for a certificate each
// time.
func TestKeylessSignsOnce(t *testing.T) {
	t.Parallel()
	sigstore := start(t)
	for name, root := range map[string][]byte{"by a root": sigstore.TrustedRoot, "by its word": nil} {
		t.Run(name, func(t *testing.T) {
			signer := identified(t, sigstore, ciIdentity, ciIssuer, func(o *keyless.Options) { o.TrustedRoot = root })
			repo, desc := web(t, name)
			before := sigstore.Certificates.Load()
			for _, want := range []bool{true, false} {
				if created, err := signer.Sign(t.Context(), repo, desc); err != nil || created != want {
					t.Errorf("created %v (%v), want %v", created, err, want)
				}
			}
			other := push(t, repo, name+" again")
			sign(t, signer, repo, other)
			if got := sigstore.Certificates.Load() - before; got != 1 {
				t.Errorf("%d certificates, want 1", got)
			}
			verifier, err := signer.Verifier(t.Context())
			switch {
			case root == nil && (err == nil || !strings.Contains(err.Error(), "trusted_root.json")):
				t.Errorf("without a root: %v", err)
			case root != nil && err != nil:
				t.Error(err)
			case root != nil:
				wantReason(t, verifier, repo, desc, "")
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	sigstore := start(t)
	dir := t.TempDir()
	file := write(t, dir, "token", []byte(signingtest.Token(ciIdentity, ciIssuer)+"\n"))
	repo, desc := web(t, "token from a file")
	sign(t, identified(t, sigstore, "", "", func(o *keyless.Options) { o.Token = keyless.Token(file) }), repo, desc)

	signer := identified(t, sigstore, "", "", func(o *keyless.Options) { o.Token = keyless.Token(file + ".absent") })
	if _, err := signer.Sign(t.Context(), repo, desc); err == nil || !strings.Contains(err.Error(), "neither a token nor a file") {
		t.Errorf("an absent file: %v", err)
	}
	if _, err := keyless.New(keyless.Options{Token: keyless.Token("x")}); err == nil || !strings.Contains(err.Error(), "timestamp authority") {
		t.Errorf("neither log nor timestamps: %v", err)
	}
}
