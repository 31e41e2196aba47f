package publish

import (
	"fmt"
	"os"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// LoadGroups reads the cluster groups that the fleet in a folder declares, and nothing of its sources.
func LoadGroups(dir string) ([]v1alpha1.ClusterGroup, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	defer func() { _ = root.Close() }()
	fleet, err := readFleet(root.FS(), dir)
	if err != nil {
		return nil, err
	}
	var groups []v1alpha1.ClusterGroup
	for _, group := range fleet.Groups {
		groups = append(groups, group.ClusterGroup)
	}
	return groups, nil
}
