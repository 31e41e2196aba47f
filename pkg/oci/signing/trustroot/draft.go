package trustroot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Spec is what a version says, in plain.
type Spec struct {
	Version int64
	Expires time.Time
	// Keys decide, Threshold of them at least. PEM.
	Keys      []string
	Threshold int
	Roles     []Role
}

// Role is who may sign what.
type Role struct {
	Name string
	// Paths are patterns over repositories relative to the fleet's prefix: * within a segment.
	Paths     []string
	Keys      []string // PEM
	Threshold int
}

// KeyID is how TUF names a key, PEM: the hash of what it is.
func KeyID(public string) (string, error) {
	key, err := parseKey(public)
	if err != nil {
		return "", err
	}
	return key.ID()
}

func parseKey(public string) (*metadata.Key, error) {
	parsed, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(public))
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, err := metadata.KeyFromPublicKey(parsed)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return key, nil
}

// Spec returns what the version says.
func (t *Trust) Spec() (Spec, error) {
	role := t.root.Signed.Roles[metadata.ROOT]
	out := Spec{Version: t.Version(), Expires: t.Expires(), Threshold: role.Threshold}
	for _, id := range role.KeyIDs {
		key, err := publicKey(t.root.Signed.Keys[id])
		if err != nil {
			return out, err
		}
		out.Keys = append(out.Keys, key)
	}
	if t.targets == nil || t.targets.Signed.Delegations == nil {
		return out, nil
	}
	delegations := t.targets.Signed.Delegations
	for _, role := range delegations.Roles {
		one := Role{Name: role.Name, Paths: role.Paths, Threshold: role.Threshold}
		for _, id := range role.KeyIDs {
			key, err := publicKey(delegations.Keys[id])
			if err != nil {
				return out, err
			}
			one.Keys = append(one.Keys, key)
		}
		out.Roles = append(out.Roles, one)
	}
	return out, nil
}

// Draft is a version in the making.
type Draft struct {
	root    *metadata.Metadata[metadata.RootType]
	targets *metadata.Metadata[metadata.TargetsType]
}

// NewDraft makes the documents of a version, not signed yet.
func NewDraft(spec Spec) (*Draft, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	expires := spec.Expires.UTC().Truncate(time.Second)
	d := &Draft{root: metadata.Root(expires), targets: metadata.Targets(expires)}
	d.root.Signed.Version, d.targets.Signed.Version = spec.Version, spec.Version
	for name, role := range d.root.Signed.Roles {
		role.Threshold = spec.Threshold
		for _, public := range spec.Keys {
			key, err := parseKey(public)
			if err != nil {
				return nil, err
			}
			if key.Type == metadata.KeyTypeRSASSA_PSS_SHA256 {
				return nil, errors.New("a root key is RSA, which TUF signs in another way than cosign; use an ECDSA P-256 or Ed25519 key")
			}
			if err := d.root.Signed.AddKey(key, name); err != nil {
				return nil, err
			}
		}
	}
	delegations := &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	for _, role := range spec.Roles {
		delegated := metadata.DelegatedRole{Name: role.Name, Threshold: role.Threshold, Paths: role.Paths, Terminating: true, KeyIDs: []string{}}
		for _, public := range role.Keys {
			key, err := parseKey(public)
			if err != nil {
				return nil, fmt.Errorf("role %s: %w", role.Name, err)
			}
			id, err := key.ID()
			if err != nil {
				return nil, err
			}
			delegations.Keys[id] = key
			delegated.KeyIDs = append(delegated.KeyIDs, id)
		}
		delegations.Roles = append(delegations.Roles, delegated)
	}
	d.targets.Signed.Delegations = delegations
	return d, nil
}

func (s Spec) check() error {
	var problems []error
	if distinct(s.Keys) < max(1, s.Threshold) || s.Threshold < 1 {
		problems = append(problems, fmt.Errorf("threshold %d of %d different root keys can never be met", s.Threshold, distinct(s.Keys)))
	}
	seen := map[string]bool{}
	for _, role := range s.Roles {
		if role.Name == "" || seen[role.Name] {
			problems = append(problems, fmt.Errorf("role %q has no name, or is there twice", role.Name))
		}
		seen[role.Name] = true
		if len(role.Paths) == 0 {
			problems = append(problems, fmt.Errorf("role %s: names no repositories; add a pattern such as bundles/*", role.Name))
		}
		for _, path := range role.Paths {
			if strings.Contains(path, "**") || path == "" {
				problems = append(problems, fmt.Errorf("role %s: pattern %q: * stands for anything within one segment, and there is no ** in TUF", role.Name, path))
			}
		}
		if distinct(role.Keys) < max(1, role.Threshold) || role.Threshold < 1 {
			problems = append(problems, fmt.Errorf("role %s: threshold %d of %d different keys can never be met", role.Name, role.Threshold, distinct(role.Keys)))
		}
	}
	return errors.Join(problems...)
}

func distinct(keys []string) int { return len(slices.Compact(slices.Sorted(slices.Values(keys)))) }

// ParseDraft reads documents that may lack signatures.
func ParseDraft(documents Documents) (*Draft, error) {
	root, err := parseRoot(documents.Root)
	if err != nil {
		return nil, err
	}
	targets, err := parseTargets(documents.Targets)
	if err != nil {
		return nil, err
	}
	return &Draft{root: root, targets: targets}, nil
}

// Documents returns both documents with the signatures so far.
func (d *Draft) Documents() (Documents, error) {
	root, err := d.root.ToBytes(true)
	if err != nil {
		return Documents{}, err
	}
	targets, err := d.targets.ToBytes(true)
	return Documents{Root: root, Targets: targets}, err
}

// Version of the draft.
func (d *Draft) Version() int64 { return d.root.Signed.Version }

// Sign adds a root key's signatures to both documents; before is the version before this one, nil for the first, whose
// keys sign the change too. It returns the key's name.
func (d *Draft) Sign(key signature.SignerVerifier, before *Trust) (id string, err error) {
	public, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	parsed, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", err
	}
	if id, err = parsed.ID(); err != nil {
		return "", err
	}
	mine := d.root.Signed.Roles[metadata.ROOT].KeyIDs
	leaving := before != nil && slices.Contains(before.root.Signed.Roles[metadata.ROOT].KeyIDs, id)
	if !slices.Contains(mine, id) && !leaving {
		return id, fmt.Errorf("key %s is no root key of version %d, nor of the one before it", shortID(id), d.Version())
	}
	d.root.Signatures = without(d.root.Signatures, id)
	if _, err := d.root.Sign(key); err != nil {
		return id, err
	}
	if slices.Contains(mine, id) {
		d.targets.Signatures = without(d.targets.Signatures, id)
		_, err = d.targets.Sign(key)
	}
	return id, err
}

func without(signatures []metadata.Signature, id string) []metadata.Signature {
	return slices.DeleteFunc(slices.Clone(signatures), func(s metadata.Signature) bool { return s.KeyID == id })
}

// Combine adds the signatures of another copy of the same draft.
func (d *Draft) Combine(other *Draft) error {
	if d.Version() != other.Version() {
		return fmt.Errorf("one copy is version %d, the other version %d", d.Version(), other.Version())
	}
	for _, pair := range []struct {
		mine, theirs any
	}{{d.root.Signed, other.root.Signed}, {d.targets.Signed, other.targets.Signed}} {
		if same, err := sameJSON(pair.mine, pair.theirs); err != nil || !same {
			return fmt.Errorf("the copies of version %d say different things: somebody changed one; compare them (pinnace trust show)", d.Version())
		}
	}
	d.root.Signatures = union(d.root.Signatures, other.root.Signatures)
	d.targets.Signatures = union(d.targets.Signatures, other.targets.Signatures)
	return nil
}

func union(a, b []metadata.Signature) []metadata.Signature {
	for _, one := range b {
		if !slices.ContainsFunc(a, func(s metadata.Signature) bool { return s.KeyID == one.KeyID }) {
			a = append(a, one)
		}
	}
	slices.SortFunc(a, func(x, y metadata.Signature) int { return cmp.Compare(x.KeyID, y.KeyID) })
	return a
}

// Need is how many signatures a version has of those that it needs, by the keys of one version.
type Need struct {
	Version   int64    `json:"version"` // whose root keys
	Have      int      `json:"have"`
	Threshold int      `json:"threshold"`
	Signed    []string `json:"signed"` // names of keys
	Open      []string `json:"open"`
}

// Spec returns what the draft says.
func (d *Draft) Spec() (Spec, error) {
	return (&Trust{root: d.root, targets: d.targets}).Spec()
}

// Needs says who has signed and who can still: by the draft's own keys, and by those of the version before.
func (d *Draft) Needs(before *Trust) []Need {
	needs := []Need{need(d.root, d.root)}
	if before != nil {
		needs = append(needs, need(before.root, d.root))
	}
	return needs
}

func need(by, root *metadata.Metadata[metadata.RootType]) Need {
	role := by.Signed.Roles[metadata.ROOT]
	out := Need{Version: by.Signed.Version, Threshold: role.Threshold}
	for _, id := range role.KeyIDs {
		alone := &metadata.Metadata[metadata.RootType]{Signed: metadata.RootType{
			Keys:  by.Signed.Keys,
			Roles: map[string]*metadata.Role{metadata.ROOT: {KeyIDs: []string{id}, Threshold: 1}},
		}}
		if alone.VerifyDelegate(metadata.ROOT, root) == nil {
			out.Have++
			out.Signed = append(out.Signed, shortID(id))
		} else {
			out.Open = append(out.Open, shortID(id))
		}
	}
	return out
}

// Finish verifies the draft as the version after before, or as the first.
func (d *Draft) Finish(before *Trust) (*Trust, error) {
	documents, err := d.Documents()
	if err != nil {
		return nil, err
	}
	if before != nil {
		return before.Next(documents)
	}
	first, err := Pin(documents.Root)
	if err != nil {
		return nil, err
	}
	return first.With(documents.Targets)
}

// DefaultRoles are those of a fleet with one key for targets and one for bundles.
func DefaultRoles(release, bundle []string) []Role {
	roles := []Role{{
		Name: "release", Threshold: 1, Keys: release,
		Paths: []string{v1alpha1.TargetRepository("*"), "rollouts/*", v1alpha1.RepositoryFleet},
	}}
	return append(roles, Role{Name: "bundle", Threshold: 1, Keys: bundle, Paths: []string{v1alpha1.BundleRepository("*")}})
}

func sameJSON(a, b any) (bool, error) {
	one, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	two, err := json.Marshal(b)
	return bytes.Equal(one, two), err
}
