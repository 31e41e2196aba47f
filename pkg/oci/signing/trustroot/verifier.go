package trustroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/internal/verified"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// maxRotations bounds how many versions are followed in one look: TUF's own bound.
const maxRotations = 256

// Store keeps the newest version that was verified, durably. It may be used by one goroutine at a time.
type Store interface {
	// Load returns what Save kept; nothing before the first.
	Load() ([]byte, error)
	Save(data []byte) error
}

// Options of a verifier.
type Options struct {
	// Delegate lets the trust root decide alone about repositories that its roles name.
	Delegate bool
	// Store keeps what was verified; nil keeps it in memory.
	Store Store
	// Local is the local policy's verifier, the floor; nil where everything is delegated.
	Local *signing.Verifier
}

// Verifier verifies by a trust root and a local policy. It may be used concurrently.
type Verifier struct {
	opts    Options
	refresh sync.Mutex // one look at a time

	mu    sync.RWMutex
	trust *Trust
	rules *signing.Verifier // of trust; nil until its roles are known
}

// NewVerifier begins with a pinned root.json, or with what the store kept since then. It doesn't dial.
func NewVerifier(pinned []byte, opts Options) (*Verifier, error) {
	trust, err := Pin(pinned)
	if err != nil {
		return nil, err
	}
	if opts.Local == nil && !opts.Delegate {
		return nil, errors.New("the trust policy has neither rules nor delegates to its root; set spec.root.delegate: true, or add rules")
	}
	v := &Verifier{opts: opts}
	if opts.Store != nil {
		// What is damaged is followed anew; how far it was, the cluster remembers too.
		kept, err := load(opts.Store)
		if err != nil && !errors.Is(err, ErrInvalid) {
			return nil, err
		}
		if kept != nil && kept.Version() >= trust.Version() {
			trust = kept
		}
	}
	return v, v.use(trust)
}

// load reads what was verified before. It is verified again as far as it goes by itself: the disk is not trusted more
// than its permissions, and who can write it could change the pinned root too.
func load(store Store) (*Trust, error) {
	data, err := store.Load()
	if err != nil || len(data) == 0 {
		return nil, err
	}
	var documents Documents
	if err := json.Unmarshal(data, &documents); err != nil {
		return nil, fmt.Errorf("%w: what was kept of it is damaged", ErrInvalid)
	}
	trust, err := Pin(documents.Root)
	if err != nil {
		return nil, err
	}
	return trust.With(documents.Targets)
}

// use brings a version into force.
func (v *Verifier) use(trust *Trust) error {
	rules, err := trust.Rules()
	if err != nil {
		return err
	}
	var verifier *signing.Verifier
	if len(rules) > 0 {
		policy := v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: rules}}
		if verifier, err = signing.NewVerifier(policy, signing.Options{}); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trust, v.rules = trust, verifier
	return nil
}

// Trust returns the version in force.
func (v *Verifier) Trust() *Trust {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.trust
}

// Verify checks a manifest's signatures by the roles and by the local policy. Without a delegation both must be
// satisfied.
func (v *Verifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	v.mu.RLock()
	trust, rules := v.trust, v.rules
	v.mu.RUnlock()
	if rules == nil {
		return oci.Verified{}, &signing.Error{
			Reason: signing.NoRule, Repository: name, Digest: desc.Digest,
			Message: fmt.Sprintf("the trust root, version %d, names nobody who may sign; publish its roles (pinnace trust publish)", trust.Version()),
		}
	}
	byRole, err := rules.Verify(ctx, repo, name, desc)
	var refusal *signing.Error
	noRole := errors.As(err, &refusal) && refusal.Reason == signing.NoRule
	switch {
	case v.opts.Delegate && noRole && v.opts.Local != nil:
		return v.opts.Local.Verify(ctx, repo, name, desc)
	case errors.As(err, &refusal):
		refusal.Message += fmt.Sprintf(" (by the trust root, version %d)", trust.Version())
		return oci.Verified{}, err
	case err != nil || v.opts.Delegate:
		return byRole, err
	}
	local, err := v.opts.Local.Verify(ctx, repo, name, desc)
	if err != nil {
		return oci.Verified{}, err
	}
	signers := slices.Concat(local.Signers(), byRole.Signers())
	evidence := slices.Clone(local.Evidence())
	for _, one := range byRole.Evidence() {
		if !slices.ContainsFunc(evidence, func(other oci.Attached) bool { return other.Descriptor.Digest == one.Descriptor.Digest }) {
			evidence = append(evidence, one)
		}
	}
	return verified.New(desc, local.Rule()+" and "+byRole.Rule(), signers, evidence), nil
}

// Inspect says what [Verifier.Verify] would, and of every signature why it counts or doesn't. enforced is false where
// only a local policy that warns refuses.
func (v *Verifier) Inspect(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (report signing.Report, enforced bool, err error) {
	v.mu.RLock()
	trust, rules := v.trust, v.rules
	v.mu.RUnlock()
	suffix := fmt.Sprintf(" (by the trust root, version %d)", trust.Version())
	if rules == nil {
		return signing.Report{
			Repository: name, Digest: desc.Digest, Reason: signing.NoRule, Message: "it names nobody who may sign; publish its roles (pinnace trust publish)" + suffix,
		}, true, nil
	}
	byRole, err := rules.Inspect(ctx, repo, name, desc)
	if err != nil {
		return byRole, true, err
	}
	elsewhere := v.opts.Delegate && byRole.Reason == signing.NoRule && v.opts.Local != nil
	switch {
	case elsewhere:
	case !byRole.Verified:
		byRole.Message += suffix
		return byRole, true, nil
	case v.opts.Delegate:
		return byRole, true, nil
	}
	local, err := v.opts.Local.Inspect(ctx, repo, name, desc)
	if err != nil || elsewhere || !local.Verified {
		return local, v.opts.Local.Enforces(), err
	}
	local.Rule += " and " + byRole.Rule
	local.Signers = slices.Concat(local.Signers, byRole.Signers)
	local.Findings = slices.Concat(local.Findings, byRole.Findings)
	return local, true, nil
}

// Refresh follows the trust root in a registry, one version after the other, and keeps each durably. known is the
// newest version that the cluster remembers. The error says why nothing new may be taken: an expired root, a gap, a
// version that is not a successor, or an older one than is known; what was verified stays in force.
func (v *Verifier) Refresh(ctx context.Context, registry oci.Registry, known int64, now time.Time) (version int64, err error) {
	v.refresh.Lock()
	defer v.refresh.Unlock()
	if err := v.follow(ctx, registry); err != nil {
		return v.Trust().Version(), err
	}
	trust := v.Trust()
	switch {
	case trust.Version() < known:
		return trust.Version(), fmt.Errorf("%w: version %d is the newest here, version %d was in force before", ErrRollback, trust.Version(), known)
	case !now.Before(trust.Expires()):
		return trust.Version(), fmt.Errorf("%w: version %d did at %s; sign and publish the next one (pinnace trust rotate)",
			ErrExpired, trust.Version(), trust.Expires().UTC().Format(time.RFC3339))
	}
	return trust.Version(), nil
}

func (v *Verifier) follow(ctx context.Context, registry oci.Registry) error {
	repo, err := registry.Repository(v1alpha1.RepositoryTrust)
	if err != nil {
		return err
	}
	if trust := v.Trust(); !trust.HasRoles() {
		documents, err := fetch(ctx, repo, trust.Version())
		if err != nil {
			return fmt.Errorf("trust root version %d: %w", trust.Version(), err)
		}
		if trust, err = trust.With(documents.Targets); err != nil {
			return err
		}
		if err := v.keep(trust); err != nil {
			return err
		}
	}
	for range maxRotations {
		trust := v.Trust()
		documents, err := fetch(ctx, repo, trust.Version()+1)
		if errors.Is(err, oci.ErrNotFound) {
			return v.checkGap(ctx, repo, trust)
		}
		if err != nil {
			return fmt.Errorf("trust root version %d: %w", trust.Version()+1, err)
		}
		if trust, err = trust.Next(documents); err != nil {
			return err
		}
		if err := v.keep(trust); err != nil {
			return err
		}
	}
	return nil // more of them next time
}

// checkGap tells a registry without newer versions from one that lost some in between: what current names must be known.
func (v *Verifier) checkGap(ctx context.Context, repo oci.Repository, trust *Trust) error {
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return nil // a partial mirror
	}
	if err != nil {
		return err
	}
	documents, err := read(ctx, repo, desc)
	if err != nil {
		return fmt.Errorf("trust root: %w", err)
	}
	newest, err := parseRoot(documents.Root)
	if err != nil {
		return err
	}
	if newest.Signed.Version > trust.Version() {
		return fmt.Errorf("%w: version %d is current, and version %d is missing; push it again, or mirror the whole repository %s",
			ErrIncomplete, newest.Signed.Version, trust.Version()+1, repo)
	}
	return nil
}

// keep makes a version durable, and only then brings it into force.
func (v *Verifier) keep(trust *Trust) error {
	if v.opts.Store != nil {
		data, err := json.Marshal(trust.Documents())
		if err != nil {
			return err
		}
		if err := v.opts.Store.Save(data); err != nil {
			return err
		}
	}
	return v.use(trust)
}
