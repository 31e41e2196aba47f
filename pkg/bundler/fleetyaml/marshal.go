package fleetyaml

import (
	"encoding/json"
	"fmt"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Marshal returns the bundle as a pinnace.yaml.
func (c Converted) Marshal() ([]byte, error) {
	data, err := json.Marshal(c.Bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Document.File, err)
	}
	var bundle map[string]any
	if err := utiljson.Unmarshal(data, &bundle); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Document.File, err)
	}
	if metadata := section(bundle, "metadata"); metadata["name"] == "" {
		delete(metadata, "name")
		if len(metadata) == 0 {
			delete(bundle, "metadata")
		}
	}
	// What is not set but has no empty form in JSON.
	spec, _ := bundle["spec"].(map[string]any)
	for _, block := range []map[string]any{section(spec, "helm"), section(spec, "health"), section(spec, "rollout")} {
		for _, name := range []string{"timeout", "bake", "deadline", "seenWithin"} {
			if block[name] == "0s" {
				delete(block, name)
			}
		}
	}
	for _, name := range []string{"drift", "health", "prune"} {
		if len(section(spec, name)) == 0 {
			delete(spec, name)
		}
	}
	head, err := yaml.Marshal(v1alpha1.TypeMeta{APIVersion: c.Bundle.APIVersion, Kind: c.Bundle.Kind})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Document.File, err)
	}
	delete(bundle, "apiVersion")
	delete(bundle, "kind")
	body, err := yaml.Marshal(bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Document.File, err)
	}
	return append(head, body...), nil
}

func section(values map[string]any, name string) map[string]any {
	below, _ := values[name].(map[string]any)
	return below
}
