package target

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// groups are the cluster groups that a selector over their own labels names.
type groups struct {
	selectors []labels.Selector
	text      string
}

func (f *Fleet) selectGroups(selector *metav1.LabelSelector) (*groups, error) {
	over, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, err
	}
	out := &groups{text: over.String()}
	for _, group := range f.Groups {
		if chosen := f.groups[group.Metadata.Name]; chosen != nil && over.Matches(labels.Set(group.Metadata.Labels)) {
			out.selectors = append(out.selectors, chosen)
		}
	}
	return out, nil
}

// match reports whether a cluster with these labels is in any of the groups.
func (g *groups) match(set labels.Set) bool {
	for _, selector := range g.selectors {
		if selector.Matches(set) {
			return true
		}
	}
	return false
}
