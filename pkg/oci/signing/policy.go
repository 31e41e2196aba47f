package signing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Verifier verifies against one trust policy. It may be used concurrently.
type Verifier struct {
	rules    []rule
	warn     func(*Error) // not nil: refusals are reported, not enforced
	trustAll bool
}

type rule struct {
	match     string
	pattern   *regexp.Regexp
	threshold int
	keys      []policyKey
}

type policyKey struct {
	name     string
	verifier signature.Verifier
}

// Options of a verifier.
type Options struct {
	// Dir is the folder that the policy's files are relative to.
	Dir string
	// Warn receives what a policy in mode warn would have refused.
	Warn func(*Error)
}

// NewVerifier checks a policy and reads the key files that it names.
func NewVerifier(policy v1alpha1.TrustPolicy, opts Options) (*Verifier, error) {
	v := &Verifier{}
	switch policy.Spec.Mode {
	case "", v1alpha1.PolicyEnforce:
	case v1alpha1.PolicyWarn:
		v.warn = func(*Error) {}
		if opts.Warn != nil {
			v.warn = opts.Warn
		}
	default:
		return nil, fmt.Errorf("trust policy: spec.mode: %q is neither enforce nor warn", policy.Spec.Mode)
	}
	if len(policy.Spec.Rules) == 0 {
		return nil, errors.New("trust policy: spec.rules: no rule, so nothing would ever be accepted; add one with match: '**'")
	}
	for i, spec := range policy.Spec.Rules {
		rule, err := newRule(spec, opts.Dir)
		if err != nil {
			return nil, fmt.Errorf("trust policy: spec.rules[%d]: %w", i, err)
		}
		v.rules = append(v.rules, rule)
	}
	return v, nil
}

// NewKeyVerifier trusts one public key, PEM, for every repository.
func NewKeyVerifier(name string, public []byte) (*Verifier, error) {
	return NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: []v1alpha1.TrustRule{{
		Match:   "**",
		Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: name, PublicKey: string(public)}}},
	}}}}, Options{})
}

// TrustAllUnsafe verifies nothing: for tests, and for fleets that turned verification off.
func TrustAllUnsafe() *Verifier { return &Verifier{trustAll: true} }

func newRule(spec v1alpha1.TrustRule, dir string) (rule, error) {
	out := rule{match: spec.Match, threshold: max(1, spec.Signers.Threshold)}
	if spec.Match == "" {
		return out, errors.New("match: empty; name a repository pattern such as targets/**")
	}
	if spec.Signers.Threshold < 0 {
		return out, fmt.Errorf("signers.threshold: %d is negative", spec.Signers.Threshold)
	}
	out.pattern = compilePattern(spec.Match)
	seen := map[string]string{}
	for i, key := range spec.Signers.Keys {
		pem, err := readKey(key, dir)
		if err != nil {
			return out, fmt.Errorf("signers.keys[%d]: %w", i, err)
		}
		verifier, canonical, err := parsePublicKey(pem)
		if err != nil {
			return out, fmt.Errorf("signers.keys[%d]: %w", i, err)
		}
		name := key.Name
		if name == "" {
			return out, fmt.Errorf("signers.keys[%d]: name: empty; refusals and reports name keys by it", i)
		}
		// One key under two names would meet a threshold of two alone.
		if other, ok := seen[canonical]; ok {
			return out, fmt.Errorf("signers.keys[%d]: %s is the same key as %s", i, name, other)
		}
		seen[canonical] = name
		out.keys = append(out.keys, policyKey{name: name, verifier: verifier})
	}
	if out.threshold > len(out.keys) {
		return out, fmt.Errorf("signers: threshold %d of %d keys can never be met", out.threshold, len(out.keys))
	}
	return out, nil
}

func readKey(key v1alpha1.PublicKey, dir string) ([]byte, error) {
	switch {
	case key.PublicKey != "" && key.File != "":
		return nil, errors.New("both publicKey and file are set; keep one")
	case key.PublicKey != "":
		return []byte(key.PublicKey), nil
	case key.File == "":
		return nil, errors.New("neither publicKey nor file is set")
	}
	path := key.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return os.ReadFile(path)
}

// rule returns the most specific rule that matches: the one with the most characters that aren't wildcards, and of
// equal ones the first.
func (v *Verifier) rule(name string) *rule {
	var best *rule
	for i := range v.rules {
		if v.rules[i].pattern.MatchString(name) && (best == nil || specificity(v.rules[i].match) > specificity(best.match)) {
			best = &v.rules[i]
		}
	}
	return best
}

func specificity(match string) int { return len(strings.ReplaceAll(match, "*", "")) }

// compilePattern turns * into anything within a segment and ** into anything.
func compilePattern(match string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(match)
	quoted = strings.ReplaceAll(quoted, `\*\*`, `.*`)
	quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
	return regexp.MustCompile(`^` + quoted + `$`)
}

func (r *rule) signers() string {
	names := make([]string, len(r.keys))
	for i, key := range r.keys {
		names[i] = key.name
	}
	if r.threshold > 1 {
		return fmt.Sprintf("%d of: %s", r.threshold, strings.Join(names, ", "))
	}
	return "one of: " + strings.Join(names, ", ")
}
