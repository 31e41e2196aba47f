package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Summary counts clusters and bundles by state.
type Summary struct {
	Fleet       string          `json:"fleet"`
	Publication int64           `json:"publication"`
	At          metav1.Time     `json:"at,omitzero"`
	Ready       bool            `json:"ready"`
	Verdict     string          `json:"verdict"` // one line
	Counts      map[Verdict]int `json:"counts"`
	// Problems are what clusters have in common that is wrong, the most frequent first.
	Problems []Problem `json:"problems,omitempty"`
	Clusters []Cluster `json:"clusters"`
	Bundles  []Bundle  `json:"bundles"`
}

// Bundle is one bundle over all clusters.
type Bundle struct {
	Name     string                 `json:"name"`
	Clusters int                    `json:"clusters"`
	Ready    int                    `json:"ready"`
	States   map[v1alpha1.State]int `json:"states,omitempty"`
	// Versions are how many clusters run each digest, as far as they say.
	Versions map[string]int `json:"versions,omitempty"`
	Message  string         `json:"message,omitempty"`
}

// Filter chooses clusters; zero fields choose all.
type Filter struct {
	Cluster  string
	Bundle   string // that have it
	Selector labels.Selector
	States   []Verdict
}

// Empty reports whether everything is chosen.
func (f Filter) Empty() bool {
	return f.Cluster == "" && f.Bundle == "" && f.Selector == nil && len(f.States) == 0
}

// Select returns the index with the clusters that the filter may choose: those of which a report has to be read.
func (f Filter) Select(index v1alpha1.FleetIndex) v1alpha1.FleetIndex {
	index.Clusters = slices.DeleteFunc(slices.Clone(index.Clusters), func(c v1alpha1.IndexCluster) bool {
		return f.Cluster != "" && c.Name != f.Cluster ||
			f.Bundle != "" && !slices.Contains(c.Bundles, f.Bundle) ||
			f.Selector != nil && !f.Selector.Matches(labels.Set(c.Labels))
	})
	return index
}

// Judged leaves out clusters of other states.
func (f Filter) Judged(clusters []Cluster) []Cluster {
	if len(f.States) == 0 {
		return clusters
	}
	return slices.DeleteFunc(slices.Clone(clusters), func(c Cluster) bool { return !slices.Contains(f.States, c.Verdict) })
}

// Summarise counts what was judged; clusters come worst first, and by name.
func Summarise(index v1alpha1.FleetIndex, clusters []Cluster) Summary {
	out := Summary{Fleet: index.Fleet, Publication: index.Publication, Counts: map[Verdict]int{}, Clusters: slices.Clone(clusters)}
	slices.SortFunc(out.Clusters, func(a, b Cluster) int {
		return cmp.Or(cmp.Compare(slices.Index(Verdicts, a.Verdict), slices.Index(Verdicts, b.Verdict)), cmp.Compare(a.Name, b.Name))
	})
	for i := range clusters {
		out.Counts[clusters[i].Verdict]++
	}
	out.Bundles = countBundles(index, clusters)
	out.Problems = problems(out.Clusters)
	out.Ready = len(clusters) > 0 && out.Counts[Ready] == len(clusters)
	out.Verdict = verdictLine(out.Counts, len(clusters))
	return out
}

func countBundles(index v1alpha1.FleetIndex, clusters []Cluster) []Bundle {
	counted := make(map[string]bool, len(clusters))
	for i := range clusters {
		counted[clusters[i].Name] = true
	}
	bundles := map[string]*Bundle{}
	for i := range index.Clusters {
		if !counted[index.Clusters[i].Name] {
			continue
		}
		for _, name := range index.Clusters[i].Bundles {
			if bundles[name] == nil {
				bundles[name] = &Bundle{Name: name, States: map[v1alpha1.State]int{}, Versions: map[string]int{}}
			}
			bundles[name].Clusters++
		}
	}
	for i := range clusters {
		cluster := &clusters[i]
		silent := cluster.Verdict == Unseen // what it said then is not counted as what is
		for j := range cluster.Bundles {
			reported := &cluster.Bundles[j]
			bundle := bundles[reported.Name]
			if bundle == nil || silent {
				continue // it left the fleet
			}
			bundle.States[reported.State]++
			bundle.Versions[reported.Digest]++
			if reported.State == v1alpha1.StateReady {
				bundle.Ready++
			} else if bundle.Message == "" {
				bundle.Message = cluster.Name + ": " + cmp.Or(reported.Message, string(reported.State))
			}
		}
	}
	out := make([]Bundle, 0, len(bundles))
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		out = append(out, *bundles[name])
	}
	return out
}

func verdictLine(counts map[Verdict]int, all int) string {
	if all == 0 {
		return "no clusters"
	}
	if counts[Ready] == all {
		return fmt.Sprintf("all %d clusters ready", all)
	}
	parts := []string{fmt.Sprintf("%d of %d clusters ready", counts[Ready], all)}
	for _, verdict := range Verdicts {
		if n := counts[verdict]; n > 0 && verdict != Ready {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(string(verdict))))
		}
	}
	return strings.Join(parts, ", ")
}
