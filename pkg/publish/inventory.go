package publish

import (
	"fmt"
	"os"

	"pinnace.dev/pinnace/pkg/target"
)

// Clusters reads the inventory of a fleet repository in a folder, by name. Sources are not read.
func Clusters(dir string) (map[string]target.Cluster, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	defer func() { _ = root.Close() }()
	fleet, err := readFleet(root.FS(), dir)
	if err != nil {
		return nil, err
	}
	clusters := make(map[string]target.Cluster, len(fleet.Clusters))
	for _, cluster := range fleet.Clusters {
		clusters[cluster.Metadata.Name] = cluster
	}
	return clusters, nil
}
