package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// previousFlags say who published before the one that signs now: keys by the files with their public halves, anybody by
// a trust policy.
type previousFlags struct {
	keys   []string
	policy string
}

func (f *previousFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "previous-key", nil,
		"public key, PEM, that published before this one: what it signed counts, and is signed again where it is in force; may be repeated")
	flags.StringVar(&f.policy, "previous-policy", "",
		"trust policy of what was published before, where keys alone don't say it, as for an identity: what its rules take counts, and is signed again where it is in force")
}

// read returns the keys, and what verifies by the policy; nil without one.
func (f *previousFlags) read(s *session) ([]v1alpha1.PublicKey, *signing.Verifier, error) {
	var keys []v1alpha1.PublicKey
	for _, file := range f.keys {
		public, err := readSmallFile(file)
		if err != nil {
			return nil, nil, fmt.Errorf("previous key: %w", err)
		}
		name := filepath.Base(file)
		if _, err := signing.NewKeyVerifier(name, public); err != nil {
			return nil, nil, usagef("previous key %s: %w; name the .pub file of a key pair", file, err)
		}
		keys = append(keys, v1alpha1.PublicKey{Name: name, PublicKey: string(public)})
	}
	if f.policy == "" {
		return keys, nil, nil
	}
	verifier, err := loadRules(s, f.policy)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("previous policy: %w", err)
	case !verifier.Enforces():
		return nil, nil, usagef("previous policy %s: mode warn refuses nobody; write mode: enforce", f.policy)
	case verifier.Rooted():
		return nil, nil, usagef("previous policy %s: its root says who may sign now, not who did; leave spec.root out and name the earlier signers in rules", f.policy)
	}
	return keys, verifier, nil
}
