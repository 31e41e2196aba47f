package publish

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Publication is one that the registry still has.
type Publication struct {
	Publication int64       `json:"publication"`
	IssuedAt    metav1.Time `json:"issuedAt"`
	// Current is what agents follow.
	Current  bool `json:"current,omitempty"`
	Clusters int  `json:"clusters"`
	// Changed counts clusters that got another target than before; unknown for the oldest.
	Changed int `json:"changed,omitempty"`
	// Sources are the commits that it was made from.
	Sources []v1alpha1.IndexSource `json:"sources,omitempty"`
}

// History lists the publications that can be gone back to, the newest first.
func History(ctx context.Context, registry oci.Registry, verifier *signing.Verifier) ([]Publication, error) {
	current, _, err := ReadIndex(ctx, registry, verifier)
	if err != nil {
		return nil, err
	}
	repo, err := registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var list []Publication
	var later *v1alpha1.FleetIndex
	numbers := publications(tags)
	for i := len(numbers) - 1; i >= 0; i-- {
		index := current
		if numbers[i] != current.Publication {
			index, _, err = readIndex(ctx, registry, verifier, v1alpha1.PublicationTag(numbers[i]))
		}
		var refusal *signing.Error
		if errors.Is(err, oci.ErrNotFound) || errors.As(err, &refusal) {
			break // removed meanwhile, or signed with a key of the past
		}
		if err != nil {
			return nil, err
		}
		if later != nil {
			list[len(list)-1].Changed = changedSince(index, *later)
		}
		list = append(list, Publication{
			Publication: index.Publication, IssuedAt: index.IssuedAt, Current: index.Publication == current.Publication,
			Clusters: len(index.Clusters), Sources: index.Sources,
		})
		later = &index
	}
	return list, nil
}

// changedSince counts clusters with another target than before.
func changedSince(before, index v1alpha1.FleetIndex) int {
	known := map[string]string{}
	for _, cluster := range before.Clusters {
		known[cluster.Name] = cluster.Digest
	}
	changed := 0
	for _, cluster := range index.Clusters {
		if known[cluster.Name] != cluster.Digest {
			changed++
		}
	}
	return changed
}
