package publish

import (
	"cmp"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// DefaultHistory is how many publications are kept when the fleet doesn't say.
const DefaultHistory = 10

// retire says in an index what the fleet no longer uses since the publication before it. Clusters in the middle of a
// rollout may run what is in no list of bundles any more, so nothing grows older while there are any.
func retire(index *v1alpha1.FleetIndex, parent v1alpha1.FleetIndex) {
	type artifact struct{ name, digest string }
	used, since := map[artifact]bool{}, map[artifact]int64{}
	for _, bundle := range index.Bundles {
		used[artifact{bundle.Name, bundle.Digest}] = true
	}
	for _, bundle := range parent.Bundles {
		since[artifact{bundle.Name, bundle.Digest}] = index.Publication
	}
	rolling := slices.ContainsFunc(index.Clusters, func(c v1alpha1.IndexCluster) bool { return len(c.Rollouts) > 0 })
	index.Departed = departed(*index, parent)
	for _, retired := range parent.Retired {
		switch {
		case rolling:
			retired.Since = index.Publication
		case forgotten(retired, *index):
			continue
		}
		since[artifact{retired.Name, retired.Digest}] = retired.Since
	}
	index.Retired = nil
	for of, publication := range since {
		if !used[of] {
			index.Retired = append(index.Retired, v1alpha1.RetiredBundle{Name: of.name, Digest: of.digest, Since: publication})
		}
	}
	slices.SortFunc(index.Retired, func(a, b v1alpha1.RetiredBundle) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), strings.Compare(a.Name, b.Name), strings.Compare(a.Digest, b.Digest))
	})
}

// forgotten reports whether an artifact was due so long ago that it was removed, or never will be: the registry doesn't
// allow it.
func forgotten(retired v1alpha1.RetiredBundle, index v1alpha1.FleetIndex) bool {
	return index.History > 0 && len(index.Departed) == 0 && retired.Since+2*int64(index.History)+DefaultHistory < index.Publication
}

// departed lists clusters that left, until their targets expire.
func departed(index, parent v1alpha1.FleetIndex) []v1alpha1.IndexCluster {
	present := map[string]bool{}
	for _, cluster := range index.Clusters {
		present[cluster.Name] = true
	}
	var gone []v1alpha1.IndexCluster
	for _, cluster := range slices.Concat(parent.Departed, parent.Clusters) {
		if present[cluster.Name] || cluster.ExpiresAt.Before(&index.IssuedAt) {
			continue
		}
		gone = append(gone, v1alpha1.IndexCluster{
			Name: cluster.Name, Generation: cluster.Generation, Digest: cluster.Digest, ExpiresAt: cluster.ExpiresAt,
		})
	}
	slices.SortFunc(gone, func(a, b v1alpha1.IndexCluster) int { return strings.Compare(a.Name, b.Name) })
	return gone
}

// due returns the retired artifacts that none of the last publications names.
func due(index v1alpha1.FleetIndex, keep int) []v1alpha1.RetiredBundle {
	oldest := index.Publication - int64(keep) + 1
	var out []v1alpha1.RetiredBundle
	for _, retired := range index.Retired {
		if retired.Since <= oldest {
			out = append(out, retired)
		}
	}
	return out
}

// superseded returns the targets of a publication that the next one replaced. Those of clusters that left stay.
func superseded(index, next v1alpha1.FleetIndex) []v1alpha1.IndexCluster {
	later := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range next.Clusters {
		later[cluster.Name] = cluster
	}
	var out []v1alpha1.IndexCluster
	for _, cluster := range index.Clusters {
		if now, known := later[cluster.Name]; known && now.Generation > cluster.Generation && now.Digest != cluster.Digest {
			out = append(out, cluster)
		}
	}
	return out
}
