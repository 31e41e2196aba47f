package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// previousKeys are files with the public keys that published before the one that signs now.
type previousKeys []string

func (k *previousKeys) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar((*[]string)(k), "previous-key", nil,
		"public key, PEM, that published before this one: what it signed counts, and is signed again where it is in force; may be repeated")
}

func (k *previousKeys) read() ([]v1alpha1.PublicKey, error) {
	var keys []v1alpha1.PublicKey
	for _, file := range *k {
		public, err := readSmallFile(file)
		if err != nil {
			return nil, fmt.Errorf("previous key: %w", err)
		}
		name := filepath.Base(file)
		if _, err := signing.NewKeyVerifier(name, public); err != nil {
			return nil, usagef("previous key %s: %w; name the .pub file of a key pair", file, err)
		}
		keys = append(keys, v1alpha1.PublicKey{Name: name, PublicKey: string(public)})
	}
	return keys, nil
}
