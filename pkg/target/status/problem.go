package status

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Problem is the same thing wrong on one or more clusters.
type Problem struct {
	Verdict Verdict `json:"verdict"`
	Bundle  string  `json:"bundle,omitempty"`
	Reason  string  `json:"reason"`
	// Message is what one of the clusters says.
	Message  string `json:"message,omitempty"`
	Clusters int    `json:"clusters"`
	// Examples are the first clusters by name.
	Examples []string `json:"examples"`
	// Since is when the first of them began to be so.
	Since metav1.Time `json:"since,omitzero"`
}

// maxExamples bounds the clusters that a problem names.
const maxExamples = 5

// problems finds what clusters have in common: the same verdict, bundle, reason and words. clusters are sorted.
func problems(clusters []Cluster) []Problem {
	type fingerprint struct{ verdict, bundle, reason, words string }
	found := map[fingerprint]*Problem{}
	for i := range clusters {
		c := &clusters[i]
		if c.Verdict == Ready || c.Verdict == Updating {
			continue // neither is wrong
		}
		key := fingerprint{string(c.Verdict), c.Bundle, c.Reason, words(c.Message, c.Name)}
		if c.Verdict == Unseen {
			key.words = "" // each has its own time
		}
		problem := found[key]
		if problem == nil {
			problem = &Problem{Verdict: c.Verdict, Bundle: c.Bundle, Reason: c.Reason, Message: c.Message, Since: c.Since}
			found[key] = problem
		}
		problem.Clusters++
		if len(problem.Examples) < maxExamples {
			problem.Examples = append(problem.Examples, c.Name)
		}
		if !c.Since.IsZero() && (problem.Since.IsZero() || c.Since.Before(&problem.Since)) {
			problem.Since = c.Since
		}
	}
	out := make([]Problem, 0, len(found))
	for _, problem := range found {
		out = append(out, *problem)
	}
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(slices.Index(Verdicts, a.Verdict), slices.Index(Verdicts, b.Verdict)),
			-cmp.Compare(a.Clusters, b.Clusters), strings.Compare(a.Bundle, b.Bundle), strings.Compare(a.Reason, b.Reason),
			strings.Compare(a.Message, b.Message))
	})
	return out
}

// varying is what differs between clusters though the problem is the same: digests, times, addresses and other words
// with digits in them.
var varying = regexp.MustCompile(`[0-9A-Za-z_.:/@+-]*[0-9][0-9A-Za-z_.:/@+-]*`)

// words are a message without what differs from cluster to cluster.
func words(message, cluster string) string {
	return varying.ReplaceAllString(strings.ReplaceAll(message, cluster, "#"), "#")
}
