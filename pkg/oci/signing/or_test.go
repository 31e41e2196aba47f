package signing_test

import (
	"errors"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Who follows others takes what they signed, by their rules, and nothing else.
func TestOr(t *testing.T) {
	a, b, stranger := signer(t, 0), signer(t, 1), signer(t, 2)
	verifier := func(t *testing.T, mode string, match string, threshold int, signers ...*signing.Signer) *signing.Verifier {
		t.Helper()
		rule := v1alpha1.TrustRule{Match: match, Signers: v1alpha1.Signers{Threshold: threshold}}
		for i, one := range signers {
			rule.Signers.Keys = append(rule.Signers.Keys, key(string(rune('a'+i)), one))
		}
		spec := policy(rule)
		spec.Spec.Mode = mode
		verifier, err := signing.NewVerifier(spec, signing.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return verifier
	}
	own := func(t *testing.T) *signing.Verifier { return verifier(t, "", "**", 1, a) }
	both := func(t *testing.T) *signing.Verifier { return verifier(t, "", "bundles/**", 2, b, stranger) }
	tests := []struct {
		name     string
		verifier func(*testing.T) *signing.Verifier
		signers  []*signing.Signer
		want     signing.Reason
	}{
		{"its own", func(t *testing.T) *signing.Verifier { return own(t).Or(both(t)) }, []*signing.Signer{a}, ""},
		{"the other's", func(t *testing.T) *signing.Verifier { return own(t).Or(both(t)) }, []*signing.Signer{b, stranger}, ""},
		{"half of the other's", func(t *testing.T) *signing.Verifier { return own(t).Or(both(t)) }, []*signing.Signer{b}, signing.ThresholdNotMet},
		{"nobody's", func(t *testing.T) *signing.Verifier { return own(t).Or(both(t)) }, nil, signing.SignatureMissing},
		{
			"the other's, elsewhere", func(t *testing.T) *signing.Verifier { return own(t).Or(verifier(t, "", "targets/**", 1, b)) },
			[]*signing.Signer{b},
			signing.NoRule,
		},
		{
			"a stranger's, and the other warns only",
			func(t *testing.T) *signing.Verifier {
				return own(t).Or(verifier(t, v1alpha1.PolicyWarn, "**", 1, b))
			},
			[]*signing.Signer{stranger},
			signing.KeyNotTrusted,
		},
		{
			"a stranger's, and the other takes everything", func(t *testing.T) *signing.Verifier { return own(t).Or(signing.TrustAllUnsafe()) },
			[]*signing.Signer{stranger},
			signing.NoRule,
		},
		{
			"the third one's", func(t *testing.T) *signing.Verifier { return own(t).Or(both(t)).Or(verifier(t, "", "**", 1, stranger)) },
			[]*signing.Signer{stranger},
			"",
		},
		{
			"the second of three's", func(t *testing.T) *signing.Verifier {
				return own(t).Or(both(t)).Or(verifier(t, "", "targets/**", 1, stranger))
			},
			[]*signing.Signer{b, stranger},
			"",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			repo, desc := web(t, test.name)
			for _, one := range test.signers {
				sign(t, one, repo, desc)
			}
			joined := test.verifier(t)
			for range 2 { // the second time it may remember
				_, err := joined.Verify(t.Context(), repo, "bundles/web", desc)
				var refusal *signing.Error
				if errors.As(err, &refusal) != (test.want != "") || refusal != nil && refusal.Reason != test.want {
					t.Errorf("got %v, want reason %q", err, test.want)
				}
			}
		})
	}
}

func TestOrLeavesBothAlone(t *testing.T) {
	first, err := signing.NewKeyVerifier("a", signer(t, 0).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	second, err := signing.NewKeyVerifier("b", signer(t, 1).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	repo, desc := web(t, "theirs")
	sign(t, signer(t, 1), repo, desc)
	joined := first.Or(second)
	wantReason(t, joined, repo, desc, "")
	wantReason(t, joined, repo, desc, "")
	wantReason(t, first, repo, desc, signing.KeyNotTrusted)
}
