package agentcli

import (
	"fmt"
	"os"

	"pinnace.dev/pinnace/pkg/sealed"
)

// loadIdentities reads the cluster's keys. Errors name the file and show nothing of it.
func loadIdentities(files []string) (sealed.Identities, error) {
	contents := make([][]byte, 0, len(files))
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return sealed.Identities{}, fmt.Errorf("read the cluster's key: %w", err)
		}
		if _, err := sealed.ParseIdentities(content); err != nil {
			return sealed.Identities{}, fmt.Errorf("the cluster's key %s: %w", file, err)
		}
		contents = append(contents, content)
	}
	return sealed.ParseIdentities(contents...)
}
