package target

import (
	"errors"

	"pinnace.dev/pinnace/pkg/sealed"
)

// view is one cluster as rules and templates see it while it is planned. Bundles ask the same of it again and again, so
// it remembers its answers. One goroutine uses it.
type view struct {
	cluster  *Cluster
	facts    Facts
	data     map[string]any
	matched  []answer // by the matcher's number
	expanded map[*compiled]expansion

	secrets    bool // the cluster's values hold some
	secretRead bool // by the template that is executed
	to         *sealed.Recipients
}

type answer struct {
	known, matched bool
	why            string
}

type expansion struct {
	value any
	err   error
}

func (f *Fleet) view(cluster *Cluster) *view {
	seen := &view{
		cluster: cluster, facts: f.Facts[cluster.Metadata.Name], data: templateData(cluster),
		matched: make([]answer, f.matchers.count()), expanded: map[*compiled]expansion{},
	}
	if values := map[string]any(cluster.Spec.Values); holdsSecret(values) {
		seen.secrets = true
		shown, _ := seen.data["cluster"].(map[string]any)
		shown["values"] = hideSecrets(values, origin{&cluster.Document, "spec.values"}, &seen.secretRead)
	}
	return seen
}

// match asks a rule, once.
func (v *view) match(rule *matcher) (bool, string) {
	known := &v.matched[rule.number]
	if !known.known {
		known.known = true
		known.matched, known.why = rule.match(v)
	}
	return known.matched, known.why
}

// expand executes a template, once. The value must not be changed.
func (v *view) expand(template *compiled) (any, error) {
	known, ok := v.expanded[template]
	if !ok {
		v.secretRead = false
		known.value, known.err = template.expand(v.data)
		switch {
		case v.secretRead && known.err != nil:
			known.err = errors.New("it fails with a secret value, which is not shown")
		case v.secretRead:
			known.value, known.err = v.tainted(known.value)
		}
		v.expanded[template] = known
	}
	return known.value, known.err
}

// reported is what expressions see of the facts.
func (v *view) reported() map[string]any {
	return map[string]any{
		"kubernetes": v.facts.Kubernetes, "kubernetesMinor": v.facts.minor(), "agent": v.facts.Agent,
		"nodes": v.facts.Nodes, "architectures": v.facts.Architectures,
	}
}

// templateData is what templates see of a cluster.
func templateData(cluster *Cluster) map[string]any {
	return map[string]any{"cluster": map[string]any{
		"name":        cluster.Metadata.Name,
		"labels":      stringMap(cluster.Metadata.Labels),
		"annotations": stringMap(cluster.Metadata.Annotations),
		"values":      map[string]any(cluster.Spec.Values),
	}}
}

func stringMap(in map[string]string) map[string]any {
	out := make(map[string]any, len(in))
	for key, value := range in {
		out[key] = value
	}
	return out
}
