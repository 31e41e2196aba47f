package target

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// match reports whether the rule selects the cluster, and why or why not.
func (f *Fleet) match(rule v1alpha1.TargetRule, cluster Cluster) (matched bool, why string, err error) {
	if rule.ClusterName != "" && rule.ClusterName != cluster.Metadata.Name {
		return false, "cluster name is not " + rule.ClusterName, nil
	}
	set := labels.Set(cluster.Metadata.Labels)
	if rule.ClusterGroup != "" {
		if selector := f.groups[rule.ClusterGroup]; selector == nil || !selector.Matches(set) {
			return false, "not in cluster group " + rule.ClusterGroup, nil
		}
	}
	if rule.ClusterSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(rule.ClusterSelector)
		if err != nil {
			return false, "", fmt.Errorf("clusterSelector: %w", err)
		}
		if !selector.Matches(set) {
			return false, "labels don't match " + selector.String(), nil
		}
	}
	return true, describe(rule), nil
}

// describe says what a rule selects, in the words of kubectl's selectors.
func describe(rule v1alpha1.TargetRule) string {
	var parts []string
	if rule.ClusterName != "" {
		parts = append(parts, "clusterName "+rule.ClusterName)
	}
	if rule.ClusterGroup != "" {
		parts = append(parts, "clusterGroup "+rule.ClusterGroup)
	}
	if rule.ClusterSelector != nil {
		parts = append(parts, "clusterSelector "+metav1.FormatLabelSelector(rule.ClusterSelector))
	}
	if len(parts) == 0 {
		parts = append(parts, "every cluster")
	}
	if rule.Name != "" {
		return rule.Name + " (" + strings.Join(parts, ", ") + ")"
	}
	return strings.Join(parts, ", ")
}
