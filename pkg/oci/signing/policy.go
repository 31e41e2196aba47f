package signing

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// maxPolicyFile stops a policy, key or trusted root that is somebody's disk image by mistake.
const maxPolicyFile = 4 << 20

// Verifier verifies against one trust policy. It may be used concurrently.
type Verifier struct {
	rules    []rule
	warn     func(*Error) // not nil: refusals are reported, not enforced
	trustAll bool
	cache    *cache
	files    []string
}

// Enforces says whether the policy refuses; in mode warn it only tells.
func (v *Verifier) Enforces() bool { return v.warn == nil }

// Options of a verifier.
type Options struct {
	// Dir is the folder that the policy's files are relative to.
	Dir string
	// Warn receives what a policy in mode warn would have refused.
	Warn func(*Error)
}

// LoadPolicy reads a policy from a file, and the files that it names.
func LoadPolicy(file string, opts Options) (*Verifier, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	policy, _, err := document.Decode[v1alpha1.TrustPolicy](file, data, v1alpha1.KindTrustPolicy)
	if err != nil {
		return nil, err
	}
	opts.Dir = cmp.Or(opts.Dir, filepath.Dir(file))
	v, err := NewVerifier(policy, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	v.files = append(v.files, file)
	return v, nil
}

// NewVerifier checks a policy and reads the key and root files that it names. It neither dials nor reads the clock.
func NewVerifier(policy v1alpha1.TrustPolicy, opts Options) (*Verifier, error) {
	v := &Verifier{cache: newCache()}
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
	reader, err := newRuleReader(policy.Spec, opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	for i, spec := range policy.Spec.Rules {
		rule, err := reader.rule(spec)
		if err != nil {
			return nil, fmt.Errorf("trust policy: spec.rules[%d]: %w", i, err)
		}
		v.rules = append(v.rules, rule)
	}
	v.files = reader.files
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
func TrustAllUnsafe() *Verifier { return &Verifier{trustAll: true, cache: newCache()} }

// ruleReader turns the policy's rules into parties, and reads each file once.
type ruleReader struct {
	dir         string
	trustedRoot string
	keyless     bool           // transparency is required
	log         *evidence.Root // not nil: keys' signatures must be in it
	roots       map[string]*evidence.Root
	files       []string
}

func newRuleReader(spec v1alpha1.TrustPolicySpec, dir string) (*ruleReader, error) {
	r := &ruleReader{dir: dir, trustedRoot: spec.TrustedRoot, roots: map[string]*evidence.Root{}}
	keys := false
	for _, one := range []struct {
		field, value string
		preset       bool
		into         *bool
	}{
		{"keyless", spec.Transparency.Keyless, true, &r.keyless},
		{"keys", spec.Transparency.Keys, false, &keys},
	} {
		switch one.value {
		case "":
			*one.into = one.preset
		case v1alpha1.TransparencyRequired:
			*one.into = true
		case v1alpha1.TransparencyIgnore:
		default:
			return nil, fmt.Errorf("spec.transparency.%s: %q is neither required nor ignore", one.field, one.value)
		}
	}
	if !keys {
		return r, nil
	}
	if spec.TrustedRoot == "" {
		return nil, errors.New("spec.transparency.keys: required needs the log's key; name a trusted_root.json in spec.trustedRoot")
	}
	data, err := r.read(spec.TrustedRoot)
	if err != nil {
		return nil, fmt.Errorf("spec.trustedRoot: %w", err)
	}
	if r.log, err = evidence.NewRoot(data, true); err != nil {
		return nil, fmt.Errorf("spec.trustedRoot: %s: %w", spec.TrustedRoot, err)
	}
	return r, nil
}

func (r *ruleReader) read(name string) ([]byte, error) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	r.files = append(r.files, path)
	return readFile(path)
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxPolicyFile+1))
	if err == nil && len(data) > maxPolicyFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxPolicyFile)
	}
	return data, err
}

func (r *ruleReader) rule(spec v1alpha1.TrustRule) (rule, error) {
	out := rule{match: newPattern(spec.Match), threshold: max(1, spec.Signers.Threshold), unsigned: spec.UnsafeAllowUnsigned}
	switch {
	case spec.Match == "":
		return out, errors.New("match: empty; name a repository pattern such as targets/**")
	case spec.Signers.Threshold < 0:
		return out, fmt.Errorf("signers.threshold: %d is negative", spec.Signers.Threshold)
	case spec.UnsafeAllowUnsigned && !strings.HasPrefix(spec.Match, v1alpha1.ImageScheme):
		return out, errors.New("unsafeAllowUnsigned: only for container images, " + v1alpha1.ImageScheme + "…: bundles and targets are always signed")
	case spec.UnsafeAllowUnsigned:
		return out, nil
	}
	if err := r.keys(spec.Signers.Keys, &out); err != nil {
		return out, err
	}
	for i, identity := range spec.Signers.Keyless {
		party, err := r.identity(identity)
		if err != nil {
			return out, fmt.Errorf("signers.keyless[%d]: %w", i, err)
		}
		out.parties = append(out.parties, party)
	}
	if out.threshold > len(out.parties) {
		return out, fmt.Errorf("signers: threshold %d of %d signers can never be met", out.threshold, len(out.parties))
	}
	for i, attestation := range spec.Attestations {
		wanted, err := newAttestation(attestation)
		if err != nil {
			return out, fmt.Errorf("attestations[%d]: %w", i, err)
		}
		out.attestations = append(out.attestations, wanted)
	}
	return out, nil
}

func (r *ruleReader) keys(keys []v1alpha1.PublicKey, out *rule) error {
	seen := map[string]string{}
	for i, spec := range keys {
		pem, err := r.key(spec)
		if err != nil {
			return fmt.Errorf("signers.keys[%d]: %w", i, err)
		}
		key, err := evidence.NewKey(pem, r.log)
		if err != nil {
			return fmt.Errorf("signers.keys[%d]: %w", i, err)
		}
		if spec.Name == "" {
			return fmt.Errorf("signers.keys[%d]: name: empty; refusals and reports name keys by it", i)
		}
		// One key under two names would meet a threshold of two alone.
		if other, ok := seen[key.PEM()]; ok {
			return fmt.Errorf("signers.keys[%d]: %s is the same key as %s", i, spec.Name, other)
		}
		seen[key.PEM()] = spec.Name
		out.parties = append(out.parties, party{name: spec.Name, key: key})
	}
	return nil
}

func (r *ruleReader) key(spec v1alpha1.PublicKey) ([]byte, error) {
	switch {
	case spec.PublicKey != "" && spec.File != "":
		return nil, errors.New("both publicKey and file are set; keep one")
	case spec.PublicKey != "":
		return []byte(spec.PublicKey), nil
	case spec.File == "":
		return nil, errors.New("neither publicKey nor file is set")
	}
	return r.read(spec.File)
}

func (r *ruleReader) identity(spec v1alpha1.Identity) (party, error) {
	if (spec.Issuer == "") == (spec.IssuerRegExp == "") {
		return party{}, errors.New("set exactly one of issuer and issuerRegExp: anybody can have any identity of some issuer")
	}
	if (spec.Identity == "") == (spec.IdentityRegExp == "") {
		return party{}, errors.New("set exactly one of identity and identityRegExp: an issuer issues to everybody")
	}
	who := &identity{}
	var err error
	if who.issuer, err = newMatcher(spec.Issuer, spec.IssuerRegExp); err != nil {
		return party{}, fmt.Errorf("issuerRegExp: %w", err)
	}
	if who.subject, err = newMatcher(spec.Identity, spec.IdentityRegExp); err != nil {
		return party{}, fmt.Errorf("identityRegExp: %w", err)
	}
	file := cmp.Or(spec.TrustedRoot, r.trustedRoot)
	if file == "" {
		return party{}, errors.New("trustedRoot: none, here or in spec.trustedRoot; cosign trusted-root create writes one, and verifying then needs no network")
	}
	if who.root = r.roots[file]; who.root == nil {
		data, err := r.read(file)
		if err != nil {
			return party{}, fmt.Errorf("trustedRoot: %w", err)
		}
		if who.root, err = evidence.NewRoot(data, r.keyless); err != nil {
			return party{}, fmt.Errorf("trustedRoot %s: %w", file, err)
		}
		r.roots[file] = who.root
	}
	return party{name: cmp.Or(spec.Name, spec.Identity, spec.IdentityRegExp), identity: who}, nil
}
