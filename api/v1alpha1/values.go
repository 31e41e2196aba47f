package v1alpha1

import "maps"

// Values is free data as in a Helm values file: JSON types only, map keys are strings.
type Values map[string]any

// DeepCopy returns a copy that shares no maps or slices.
func (v Values) DeepCopy() Values {
	if v == nil {
		return nil
	}
	return copyValue(map[string]any(v)).(map[string]any)
}

func copyValue(value any) any {
	switch value := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(value))
		for key, item := range value {
			out[key] = copyValue(item)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = copyValue(item)
		}
		return out
	}
	return value
}

// isSecret reports whether a mapping is one secret value, which is replaced as a whole.
func isSecret(fields map[string]any) bool {
	_, has := fields[SecretValueKey]
	return len(fields) == 2 && has && fields[SecretKey] == true
}

// MergeValues returns base with over merged over it as Helm merges its files: maps by key, everything else replaced. A
// null stays, because it is how Helm is told to leave a chart's default out. Neither argument is changed; the result
// shares what was not merged.
func MergeValues(base, over map[string]any) map[string]any {
	if len(over) == 0 {
		return base
	}
	out := make(map[string]any, len(base)+len(over))
	maps.Copy(out, base)
	for key, value := range over {
		below, isMap := out[key].(map[string]any)
		above, overIsMap := value.(map[string]any)
		if isMap && overIsMap && !isSecret(below) && !isSecret(above) {
			value = MergeValues(below, above)
		}
		out[key] = value
	}
	return out
}
