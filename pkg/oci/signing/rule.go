package signing

import (
	"fmt"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// rule says who must have signed what a pattern matches.
type rule struct {
	match        pattern
	threshold    int
	parties      []party
	attestations []attestation
	unsigned     bool
}

// party is a signer whom a rule names: a key or an identity.
type party struct {
	name     string
	key      *evidence.Key
	identity *identity
}

// identity takes certificates of one trusted root by issuer and subject.
type identity struct {
	root            *evidence.Root
	issuer, subject matcher
}

func (i *identity) matches(who evidence.Identity) bool {
	return i.issuer.matches(who.Issuer) && i.subject.matches(who.Subject)
}

// rule returns the most specific rule that matches: the one with the most characters that aren't wildcards, and of
// equal ones the first.
func (v *rules) rule(name string) *rule {
	var best *rule
	for i := range v.list {
		rule := &v.list[i]
		// ** is for repositories of the fleet; images have rules of their own.
		if strings.HasPrefix(name, v1alpha1.ImageScheme) != strings.HasPrefix(rule.match.text, v1alpha1.ImageScheme) {
			continue
		}
		if rule.match.regexp.MatchString(name) && (best == nil || rule.match.specificity() > best.match.specificity()) {
			best = rule
		}
	}
	return best
}

// wants says whether an attestation of that type may matter.
func (r *rule) wants(predicate string) bool {
	return predicate == evidence.PredicateSign ||
		slices.ContainsFunc(r.attestations, func(a attestation) bool { return a.predicate == predicate })
}

func (r *rule) signers() string {
	names := make([]string, len(r.parties))
	for i, party := range r.parties {
		names[i] = party.name
	}
	if r.threshold > 1 {
		return fmt.Sprintf("%d of: %s", r.threshold, strings.Join(names, ", "))
	}
	return "one of: " + strings.Join(names, ", ")
}
