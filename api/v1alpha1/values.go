package v1alpha1

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
