// Package trustroot follows a fleet's trust root: which keys may sign what, in the form of The Update Framework.
//
// A version n of the trust root is two documents: root.json, with the keys of the people who decide (kept offline, on
// several machines), and targets.json, in which they delegate repositories to the keys of roles such as release. Both
// are signed by a threshold of the root keys; root.json of version n+1 also by that of version n. So who knows one
// version can follow all later ones, one at a time, from any registry, mirror or medium: see [Trust.Next].
//
// A [Draft] is a version in the making: it is carried from machine to machine, signed on each, and combined. A
// [Verifier] puts the trust root beside a local trust policy, follows rotations ([Verifier.Refresh]) and never goes
// back.
//
// See https://theupdateframework.github.io/specification/v1.0.33/ for the documents and the rules of rotation.
package trustroot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Bounds; a hostile registry may send anything.
const (
	// MaxDocument stops documents that fill the memory: one has some kilobytes.
	MaxDocument = 512 << 10
	// maxKeys stops documents whose verification takes for ever: every key of a role may be tried.
	maxKeys = 256
	// maxRoles stops documents with endless roles.
	maxRoles = 256
)

// What callers branch on.
var (
	// ErrInvalid says that a version is not a successor of what is trusted.
	ErrInvalid = errors.New("trust root refused")
	// ErrExpired says that the newest version is past its time.
	ErrExpired = errors.New("trust root expired")
	// ErrRollback says that an older version was offered than was seen before.
	ErrRollback = errors.New("trust root is older than the one that is known")
	// ErrIncomplete says that versions in between are missing.
	ErrIncomplete = errors.New("trust root has a gap")
)

// Documents are the two documents of a version, as they are signed.
type Documents struct {
	Root    []byte `json:"root"`
	Targets []byte `json:"targets"`
}

// Trust is a version that was verified. It doesn't change.
type Trust struct {
	documents Documents
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
}

// Pin begins with a root.json that was brought to this machine by a way that is trusted. Roles are known once its
// targets.json came along ([Trust.With]).
func Pin(root []byte) (*Trust, error) {
	parsed, err := parseRoot(root)
	if err != nil {
		return nil, err
	}
	if err := parsed.VerifyDelegate(metadata.ROOT, parsed); err != nil {
		return nil, fmt.Errorf("%w: root.json version %d: %w", ErrInvalid, parsed.Signed.Version, err)
	}
	return &Trust{documents: Documents{Root: root}, root: parsed}, nil
}

// Version of the root.
func (t *Trust) Version() int64 { return t.root.Signed.Version }

// Expires is when the earlier of the two documents does.
func (t *Trust) Expires() time.Time {
	expires := t.root.Signed.Expires
	if t.targets != nil && t.targets.Signed.Expires.Before(expires) {
		expires = t.targets.Signed.Expires
	}
	return expires
}

// Documents returns what was verified.
func (t *Trust) Documents() Documents { return t.documents }

// HasRoles reports whether the targets.json of this version is known.
func (t *Trust) HasRoles() bool { return t.targets != nil }

// With completes a pinned root with its targets.json.
func (t *Trust) With(targets []byte) (*Trust, error) {
	parsed, err := parseTargets(targets)
	if err != nil {
		return nil, err
	}
	if parsed.Signed.Version != t.Version() {
		return nil, fmt.Errorf("%w: targets.json has version %d, root.json %d", ErrInvalid, parsed.Signed.Version, t.Version())
	}
	if err := t.root.VerifyDelegate(metadata.TARGETS, parsed); err != nil {
		return nil, fmt.Errorf("%w: targets.json version %d: %w", ErrInvalid, parsed.Signed.Version, err)
	}
	next := &Trust{documents: Documents{Root: t.documents.Root, Targets: targets}, root: t.root, targets: parsed}
	if _, err := next.Rules(); err != nil {
		return nil, err
	}
	return next, nil
}

// Next verifies the version after this one. An expired version in between is no obstacle: who was away for long
// follows all of them, and only the last one must be fresh.
func (t *Trust) Next(documents Documents) (*Trust, error) {
	root, err := parseRoot(documents.Root)
	if err != nil {
		return nil, err
	}
	if root.Signed.Version != t.Version()+1 {
		return nil, fmt.Errorf("%w: root.json has version %d, want %d", ErrInvalid, root.Signed.Version, t.Version()+1)
	}
	for _, by := range []*metadata.Metadata[metadata.RootType]{t.root, root} {
		if err := by.VerifyDelegate(metadata.ROOT, root); err != nil {
			return nil, fmt.Errorf("%w: root.json version %d, by the keys of version %d: %w", ErrInvalid, root.Signed.Version, by.Signed.Version, err)
		}
	}
	next := &Trust{documents: Documents{Root: documents.Root}, root: root}
	return next.With(documents.Targets)
}

// Rules are what the roles allow, as a trust policy says it.
func (t *Trust) Rules() ([]v1alpha1.TrustRule, error) {
	if t.targets == nil || t.targets.Signed.Delegations == nil {
		return nil, nil
	}
	delegations := t.targets.Signed.Delegations
	if len(delegations.Roles) > maxRoles || delegations.SuccinctRoles != nil {
		return nil, fmt.Errorf("%w: targets.json has %d roles, at most %d are allowed, and no succinct ones", ErrInvalid, len(delegations.Roles), maxRoles)
	}
	var rules []v1alpha1.TrustRule
	for _, role := range delegations.Roles {
		signers := v1alpha1.Signers{Threshold: role.Threshold}
		for _, id := range role.KeyIDs {
			key, err := publicKey(delegations.Keys[id])
			if err != nil {
				return nil, fmt.Errorf("%w: role %s: key %s: %w", ErrInvalid, role.Name, shortID(id), err)
			}
			signers.Keys = append(signers.Keys, v1alpha1.PublicKey{Name: role.Name + "-" + shortID(id), PublicKey: key})
		}
		if len(role.Paths) == 0 || len(signers.Keys) < max(1, role.Threshold) || role.Threshold < 1 {
			return nil, fmt.Errorf("%w: role %s has %d patterns, %d keys and threshold %d: it could never sign anything",
				ErrInvalid, role.Name, len(role.Paths), len(signers.Keys), role.Threshold)
		}
		for _, path := range role.Paths {
			rules = append(rules, v1alpha1.TrustRule{Match: path, Signers: signers})
		}
	}
	return rules, nil
}

// publicKey returns a key as PEM.
func publicKey(key *metadata.Key) (string, error) {
	if key == nil {
		return "", errors.New("it is not among the keys")
	}
	public, err := key.ToPublicKey()
	if err != nil {
		return "", err
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	return string(pem), err
}

func shortID(id string) string { return id[:min(8, len(id))] }

func parseRoot(data []byte) (*metadata.Metadata[metadata.RootType], error) {
	if err := checkDocument(data); err != nil {
		return nil, fmt.Errorf("root.json: %w", err)
	}
	parsed, err := metadata.Root().FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("%w: root.json cannot be read: %s", ErrInvalid, line(err))
	}
	if role := parsed.Signed.Roles[metadata.ROOT]; role == nil || len(parsed.Signed.Keys) > maxKeys || len(role.KeyIDs) > maxKeys || parsed.Signed.Version < 1 {
		return nil, fmt.Errorf("%w: root.json has no role root, no version, or more than %d keys", ErrInvalid, maxKeys)
	}
	for name, role := range parsed.Signed.Roles {
		if role == nil || len(role.KeyIDs) > maxKeys {
			return nil, fmt.Errorf("%w: root.json: role %q has no keys, or more than %d", ErrInvalid, name, maxKeys)
		}
		for _, id := range role.KeyIDs {
			if parsed.Signed.Keys[id] == nil {
				return nil, fmt.Errorf("%w: root.json: role %q names a key that is not there", ErrInvalid, name)
			}
		}
	}
	return parsed, nil
}

func parseTargets(data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := checkDocument(data); err != nil {
		return nil, fmt.Errorf("targets.json: %w", err)
	}
	parsed, err := metadata.Targets().FromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("%w: targets.json cannot be read: %s", ErrInvalid, line(err))
	}
	if delegations := parsed.Signed.Delegations; delegations != nil && len(delegations.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: targets.json has %d keys, at most %d are allowed", ErrInvalid, len(delegations.Keys), maxKeys)
	}
	return parsed, nil
}

// checkDocument looks at the form before a parser of others sees it: size, depth, and keys that are there twice, of
// which parsers take either.
func checkDocument(data []byte) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrInvalid, len(data), MaxDocument)
	}
	if err := oci.CheckJSON(data); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func line(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
