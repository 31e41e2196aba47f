package signing

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// ruleReader turns the policy's rules into parties, and reads each file once.
type ruleReader struct {
	dir         string
	trustedRoot string
	keyless     bool           // transparency is required
	log         *evidence.Root // not nil: keys' signatures must be in it
	roots       map[string]*evidence.Root
	files       fingerprints
}

func newRuleReader(spec v1alpha1.TrustPolicySpec, dir string, files fingerprints) (*ruleReader, error) {
	r := &ruleReader{dir: dir, files: files, trustedRoot: spec.TrustedRoot, roots: map[string]*evidence.Root{}}
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
	return r.files.read(path)
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
