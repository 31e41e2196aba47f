package sealed

import "pinnace.dev/pinnace/api/v1alpha1"

// Mark reports whether a value is meant to be secret, {secret: true, value: …}, and returns what is meant.
func Mark(value any) (inner any, is bool) {
	fields, isMap := value.(map[string]any)
	if !isMap || len(fields) != 2 || fields[v1alpha1.SecretKey] != true {
		return nil, false
	}
	inner, is = fields[v1alpha1.SecretValueKey]
	return inner, is
}

// Placeholder stands in the place of a secret value: of its type, so that a chart's schema and templates take it.
func Placeholder(value any) any {
	switch value.(type) {
	case bool:
		return false
	case float64, int, int64:
		return 0
	case []any:
		return []any{}
	case map[string]any:
		return map[string]any{}
	}
	return "sealed"
}
