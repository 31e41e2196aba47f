package bundler

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"pinnace.dev/pinnace/pkg/sealed"
)

// CheckShared refuses secret values in a bundle's own file: a bundle that is built for other fleets carries it, so
// everybody could read them who can read the registry.
func (f Found) CheckShared() error {
	var findings []error
	report := func(path string, value any) {
		for _, place := range plainSecrets(path, value) {
			findings = append(findings, f.Document.Errorf(place, "bundle %q: the value is secret, and everybody who reads the registry could read it; let the fleet's clusters bring it (spec.values), or seal it (pinnace seal --help)",
				f.Bundle.Metadata.Name))
		}
	}
	if helm := f.Bundle.Spec.Helm; helm != nil {
		report("spec.helm.values", map[string]any(helm.Values))
	}
	for i, override := range f.Bundle.Spec.Overrides {
		report(fmt.Sprintf("spec.overrides[%d].values", i), map[string]any(override.Values))
	}
	return errors.Join(findings...)
}

// plainSecrets returns where values stand that are marked as secret and not sealed.
func plainSecrets(path string, value any) []string {
	if inner, is := sealed.Mark(value); is {
		if text, isText := inner.(string); isText {
			if _, is := sealed.Text(text); is {
				return nil
			}
		}
		return []string{path}
	}
	var found []string
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			found = append(found, plainSecrets(path+"."+key, value[key])...)
		}
	case []any:
		for i, item := range value {
			found = append(found, plainSecrets(fmt.Sprintf("%s[%d]", path, i), item)...)
		}
	}
	return found
}
