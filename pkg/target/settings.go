package target

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// rules are a bundle's rules, and what each combination of its overrides makes of it. Clusters are many and
// combinations few, so overrides are merged and templates parsed once for each.
type rules struct {
	targets   []*matcher
	exclude   []*matcher
	overrides []*matcher
	merged    sync.Map // by the combination
	templates *templates
}

// settings are a bundle after one combination of overrides.
type settings struct {
	overrides []string
	skip      string // the override that skips the bundle
	namespace string
	kustomize string
	overlays  []string
	values    expander
	variables map[string]expander
	variant   string
	secret    bool // there is a secret in values or variables
	// statics are hashes of what is the same for all clusters, see [Fleet.Sketch].
	statics sync.Map
}

// settings returns what the overrides that match the cluster make of the bundle.
func (r *rules) settings(bundle *Bundle, seen *view) (*settings, error) {
	matching := make([]byte, 0, 16)
	for i, override := range r.overrides {
		if matched, _ := seen.match(override); matched {
			matching = append(matching, byte(i>>8), byte(i))
			if bundle.Spec.OverrideMode == v1alpha1.OverrideFirst {
				break
			}
		}
	}
	combination := string(matching)
	if known, ok := r.merged.Load(combination); ok {
		return known.(*settings), nil
	}
	var overrides []int
	for i := 0; i < len(matching); i += 2 {
		overrides = append(overrides, int(matching[i])<<8|int(matching[i+1]))
	}
	merged, err := r.merge(bundle, overrides)
	if err != nil {
		return nil, err
	}
	known, _ := r.merged.LoadOrStore(combination, merged)
	return known.(*settings), nil
}

func (r *rules) merge(bundle *Bundle, matching []int) (*settings, error) {
	spec := &bundle.Spec
	out := &settings{namespace: spec.Namespace}
	values, texts, variables := map[string]any{}, map[string]yamlText{}, maps.Clone(spec.Variables)
	if spec.Helm != nil {
		if spec.Helm.Values != nil {
			values = spec.Helm.Values
		}
		addTemplateValues(texts, spec.Helm.TemplateValues, "spec.helm.templateValues")
	}
	if spec.Kustomize != nil {
		out.kustomize = spec.Kustomize.Path
	}
	if spec.Manifests != nil {
		out.overlays = spec.Manifests.Overlays
	}
	for _, i := range matching {
		override := spec.Overrides[i]
		name := override.Name
		if name == "" {
			name = fmt.Sprintf("overrides[%d]", i)
		}
		out.overrides = append(out.overrides, name)
		if override.Skip {
			out.skip = name
			return out, nil
		}
		if override.Namespace != "" {
			out.namespace = override.Namespace
		}
		if override.Kustomize != nil {
			out.kustomize = override.Kustomize.Path
		}
		out.overlays = slices.Concat(out.overlays, override.Overlays)
		values = v1alpha1.MergeValues(values, override.Values)
		addTemplateValues(texts, override.TemplateValues, fmt.Sprintf("spec.overrides[%d].templateValues", i))
		if len(override.Variables) > 0 && variables == nil {
			variables = map[string]string{}
		}
		maps.Copy(variables, override.Variables)
	}
	if err := bundle.CheckNamespace(cmp.Or(out.namespace, metav1.NamespaceDefault)); err != nil {
		return nil, bundle.Document.Errorf("spec.namespace", "bundle %q: %v", bundle.Metadata.Name, err)
	}
	values = withTemplateValues(values, texts)
	var err error
	if out.values, err = r.templates.compile(values, "spec.helm.values"); err != nil {
		return nil, err
	}
	out.variables = make(map[string]expander, len(variables))
	for key, value := range variables {
		if out.variables[key], err = r.templates.compile(value, "spec.variables."+key); err != nil {
			return nil, err
		}
		out.secret = out.secret || out.variables[key].secret
	}
	out.secret = out.secret || out.values.secret
	out.variant, err = variantKey(bundle, out, values)
	return out, err
}

// renders reports whether the builder renders the bundle with its values.
func renders(bundle *Bundle) bool {
	return bundle.Spec.Helm != nil && bundle.Spec.Helm.Install == v1alpha1.InstallApply
}

// variantKey tells apart what renders to other bytes.
func variantKey(bundle *Bundle, s *settings, values v1alpha1.Values) (string, error) {
	inputs := struct {
		Namespace string
		Values    v1alpha1.Values
		Overrides string
		Kustomize string
		Overlays  []string
	}{Kustomize: s.kustomize, Overlays: s.overlays}
	if bundle.Spec.Helm != nil {
		inputs.Namespace, inputs.Overrides = s.namespace, strings.Join(s.overrides, "\x00")
	}
	if renders(bundle) {
		inputs.Values = values
	}
	data, err := json.Marshal(inputs)
	if err != nil {
		return "", fmt.Errorf("bundle %q: values: %w", bundle.Metadata.Name, err)
	}
	sum := sha256.Sum256(data)
	return bundle.Metadata.Name + "/" + hex.EncodeToString(sum[:8]), nil
}

func expandAll(variables map[string]expander, seen *view) (map[string]any, error) {
	if len(variables) == 0 {
		return nil, nil
	}
	out := make(map[string]any, len(variables))
	for key, variable := range variables {
		value, err := variable.expand(seen)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
}
