package cli

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"pinnace.dev/pinnace/pkg/sealed"
)

// runKeysGenerateAge makes a cluster's key, which what is sealed to it is opened with.
func runKeysGenerateAge(s *session, file string) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return usagef("%s exists; choose another --output-key-prefix, or move it away", file)
	}
	private, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		return err
	}
	if err := writeKey(file, private, 0o600); err != nil {
		return err
	}
	s.message(markDone, "name %s in spec.identities of the cluster's agent, and the line below in spec.recipients of its Cluster; to rotate a key, have both of each until every target was published again", file)
	return s.printf("%s\n", recipient)
}

// sealKey identifies secret values for a publish: it is made from a file that stays secret and stays the same, which
// is the signing key's where no other is named.
func sealKey(file string) ([]byte, error) {
	if file == "" || strings.Contains(file, "://") {
		return nil, nil // a key service gives nothing away
	}
	data, err := readSmallFile(file)
	if err != nil {
		return nil, fmt.Errorf("key to identify secrets with: %w", err)
	}
	if len(data) < minSealKey {
		return nil, usagef("%s: has %d bytes, which could be guessed; name a file with at least %d random ones", file, len(data), minSealKey)
	}
	sum := sha256.Sum256(append([]byte("pinnace seal key v1\n"), data...))
	return sum[:], nil
}

// minSealKey is how much a file must hold that cannot be guessed.
const minSealKey = 32
