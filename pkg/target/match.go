package target

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// matcher is a rule made ready to be asked thousands of times.
type matcher struct {
	rule     v1alpha1.TargetRule
	group    labels.Selector // nil: any
	groups   *groups         // nil: any
	selector labels.Selector // nil: any
	// selectorText is the selector in kubectl's words.
	selectorText string
	number       int // among the fleet's
	// expression is nil when there is none.
	expression *expression
	// text says what the rule selects, in the words of kubectl's selectors.
	text string
}

func (f *Fleet) newMatcher(rule v1alpha1.TargetRule) (matcher, error) {
	m := matcher{rule: rule, text: describe(rule)}
	if rule.ClusterGroup != "" {
		if m.group = f.groups[rule.ClusterGroup]; m.group == nil {
			return m, fmt.Errorf("cluster group %q is not in the inventory; there are %s",
				rule.ClusterGroup, names(f.Groups, func(g Group) string { return g.Metadata.Name }))
		}
	}
	if rule.ClusterGroupSelector != nil {
		var err error
		if m.groups, err = f.selectGroups(rule.ClusterGroupSelector); err != nil {
			return m, fmt.Errorf("clusterGroupSelector: %w", err)
		}
	}
	if rule.ClusterSelector != nil {
		var err error
		if m.selector, err = metav1.LabelSelectorAsSelector(rule.ClusterSelector); err != nil {
			return m, fmt.Errorf("clusterSelector: %w", err)
		}
		m.selectorText = m.selector.String()
	}
	if rule.Expression != "" {
		var err error
		if m.expression, err = newExpression(rule.Expression); err != nil {
			return m, fmt.Errorf("expression: %w", err)
		}
		if err := m.expression.checkReported(f.Spec); err != nil {
			return m, err
		}
	}
	return m, nil
}

// match reports whether the rule selects the cluster, and why or why not.
func (m *matcher) match(seen *view) (matched bool, why string) {
	set := labels.Set(seen.cluster.Metadata.Labels)
	switch {
	case m.rule.ClusterName != "" && m.rule.ClusterName != seen.cluster.Metadata.Name:
		return false, "cluster name is not " + m.rule.ClusterName
	case m.group != nil && !m.group.Matches(set):
		return false, "not in cluster group " + m.rule.ClusterGroup
	case m.groups != nil && !m.groups.match(set):
		return false, "in no cluster group with labels " + m.groups.text
	case m.selector != nil && !m.selector.Matches(set):
		return false, "labels don't match " + m.selectorText
	}
	if m.expression != nil {
		if matched, why := m.expression.match(seen); !matched {
			return false, why
		}
	}
	return true, m.text
}

func describe(rule v1alpha1.TargetRule) string {
	var parts []string
	if rule.ClusterName != "" {
		parts = append(parts, "clusterName "+rule.ClusterName)
	}
	if rule.ClusterGroup != "" {
		parts = append(parts, "clusterGroup "+rule.ClusterGroup)
	}
	if rule.ClusterGroupSelector != nil {
		parts = append(parts, "clusterGroupSelector "+metav1.FormatLabelSelector(rule.ClusterGroupSelector))
	}
	if rule.ClusterSelector != nil {
		parts = append(parts, "clusterSelector "+metav1.FormatLabelSelector(rule.ClusterSelector))
	}
	if rule.Expression != "" {
		parts = append(parts, "expression "+rule.Expression)
	}
	if len(parts) == 0 {
		parts = append(parts, "every cluster")
	}
	if rule.Name != "" {
		return rule.Name + " (" + strings.Join(parts, ", ") + ")"
	}
	return strings.Join(parts, ", ")
}
