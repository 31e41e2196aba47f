package target

import (
	"encoding/json"
	"fmt"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// matchers holds each different rule of a fleet once.
type matchers struct {
	fleet    *Fleet
	clusters map[string]bool
	byRule   map[string]compiledRule
}

type compiledRule struct {
	matcher *matcher
	err     error
}

func newMatchers(fleet *Fleet) *matchers {
	out := &matchers{fleet: fleet, clusters: map[string]bool{}, byRule: map[string]compiledRule{}}
	for i := range fleet.Clusters {
		out.clusters[fleet.Clusters[i].Metadata.Name] = true
	}
	return out
}

func (m *matchers) count() int { return len(m.byRule) }

// compile makes a rule ready, and refuses one that is wrong or selects no cluster.
func (m *matchers) compile(rule v1alpha1.TargetRule) (*matcher, error) {
	key, err := json.Marshal(rule)
	if err != nil {
		return nil, err
	}
	known, ok := m.byRule[string(key)]
	if !ok {
		made, err := m.fleet.newMatcher(rule)
		made.number = len(m.byRule)
		if err == nil {
			err = m.check(&made)
		}
		known = compiledRule{matcher: &made, err: err}
		m.byRule[string(key)] = known
	}
	return known.matcher, known.err
}

func (m *matchers) check(made *matcher) error {
	rule, all := made.rule, m.fleet.Clusters
	if rule.ClusterName != "" && !m.clusters[rule.ClusterName] {
		return fmt.Errorf("cluster %q is not in the inventory; there are %s", rule.ClusterName, names(all, func(c Cluster) string { return c.Metadata.Name }))
	}
	// Facts come and go with reports.
	if rule.AllowEmpty || made.expression != nil && made.expression.reported {
		return nil
	}
	for i := range all {
		seen := &view{cluster: &all[i], data: templateData(&all[i])}
		if matched, _ := made.match(seen); matched {
			return nil
		}
	}
	return fmt.Errorf("%s selects none of the %d clusters; correct it, or set allowEmpty: true", made.text, len(all))
}
