package signing

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

// Verifier verifies against one trust policy. It may be used concurrently, also while the policy changes.
type Verifier struct {
	current atomic.Pointer[rules]
	file    string // of the policy; empty where it didn't come from one
	opts    Options
	refresh sync.Mutex // one look at a time
}

// rules are a policy that was read and checked. They never change: another policy has others.
type rules struct {
	list     []rule
	warn     func(*Error) // not nil: refusals are reported, not enforced
	trustAll bool
	images   bool // there are rules for container images
	rooted   bool // there is a root of trust beside the rules
	cache    *cache
	files    fingerprints // of everything that was read
	or       *rules       // not nil: what these refuse counts where those take it
}

func newVerifierOf(r *rules) *Verifier {
	v := &Verifier{}
	v.current.Store(r)
	return v
}

// Rooted says that the policy has a root of trust beside its rules, which package trustroot goes by.
func (v *Verifier) Rooted() bool { return v.current.Load().rooted }

// Enforces says whether the policy refuses; in mode warn it only tells.
func (v *Verifier) Enforces() bool { return v.current.Load().warn == nil }

// Or returns a verifier that also takes what another one takes, for whoever follows others: they signed what is there. It
// refuses as this one does, whatever the other one's mode, and reads no file again.
func (v *Verifier) Or(other *Verifier) *Verifier {
	return newVerifierOf(v.current.Load().with(other.current.Load()))
}

func (v *rules) with(other *rules) *rules {
	both := *v
	if both.or = other; v.or != nil {
		both.or = v.or.with(other)
	}
	both.cache, both.files = newCache(), nil
	return &both
}

// Options of a verifier.
type Options struct {
	// Dir is the folder that the policy's files are relative to.
	Dir string
	// Warn receives what a policy in mode warn would have refused.
	Warn func(*Error)
}

// LoadPolicy reads a policy from a file, and the files that it names. [Verifier.Refresh] reads them again.
func LoadPolicy(file string, opts Options) (*Verifier, error) {
	opts.Dir = cmp.Or(opts.Dir, filepath.Dir(file))
	read, err := loadRules(file, opts)
	if err != nil {
		return nil, err
	}
	v := newVerifierOf(read)
	v.file, v.opts = file, opts
	return v, nil
}

func loadRules(file string, opts Options) (*rules, error) {
	files := fingerprints{}
	data, err := files.read(file)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	policy, _, err := document.Decode[v1alpha1.TrustPolicy](file, data, v1alpha1.KindTrustPolicy)
	if err != nil {
		return nil, err
	}
	read, err := newRules(policy, opts, files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return read, nil
}

// Refresh reads the policy again when one of its files changed, and brings it into force at once: whoever verifies
// meanwhile goes by the one or the other. With an error, what was in force stays. Only policies from files change.
func (v *Verifier) Refresh() (changed bool, err error) {
	if v.file == "" || v.current.Load().files.current() {
		return false, nil
	}
	v.refresh.Lock()
	defer v.refresh.Unlock()
	if v.current.Load().files.current() {
		return false, nil // somebody else was faster
	}
	read, err := loadRules(v.file, v.opts)
	if err != nil {
		return false, err
	}
	v.current.Store(read)
	return true, nil
}

// NewVerifier checks a policy and reads the key and root files that it names. It neither dials nor reads the clock.
func NewVerifier(policy v1alpha1.TrustPolicy, opts Options) (*Verifier, error) {
	read, err := newRules(policy, opts, fingerprints{})
	if err != nil {
		return nil, err
	}
	return newVerifierOf(read), nil
}

func newRules(policy v1alpha1.TrustPolicy, opts Options, files fingerprints) (*rules, error) {
	v := &rules{cache: newCache(), files: files, rooted: policy.Spec.Root != nil}
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
	reader, err := newRuleReader(policy.Spec, opts.Dir, files)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	for i, spec := range policy.Spec.Rules {
		rule, err := reader.rule(spec)
		if err != nil {
			return nil, fmt.Errorf("trust policy: spec.rules[%d]: %w", i, err)
		}
		v.list = append(v.list, rule)
		v.images = v.images || strings.HasPrefix(spec.Match, v1alpha1.ImageScheme)
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
func TrustAllUnsafe() *Verifier { return newVerifierOf(&rules{trustAll: true, cache: newCache()}) }
