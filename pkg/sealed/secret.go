package sealed

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Secret in a bundle holds, in data or stringData, texts that pinnace seal made, texts of nothing but variables, or
// nothing at all.

// fields are where a Secret keeps its values.
var fields = []string{"data", "stringData"}

// IsSecret reports whether an object is a Kubernetes Secret.
func IsSecret(object map[string]any) bool {
	return object["apiVersion"] == "v1" && object["kind"] == "Secret"
}

// PlainKeys returns which values of a Secret everybody could read, such as "data.password". A SOPS document has none:
// its values are encrypted, or SOPS was told that they are not secret.
func PlainKeys(object map[string]any) []string {
	if !IsSecret(object) || object[sopsKey] != nil {
		return nil
	}
	var plain []string
	for _, field := range fields {
		values, _ := object[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			text, _ := values[key].(string)
			if _, sealed := Text(decoded(field, text)); !sealed && text != "" && !onlyVariables(text) {
				plain = append(plain, field+"."+key)
			}
		}
	}
	return plain
}

// onlyVariables reports whether a text is one ${NAME} without a default, which has its value at the edge.
func onlyVariables(text string) bool {
	name, ok := strings.CutPrefix(text, "${")
	if !ok {
		return false
	}
	name, ok = strings.CutSuffix(name, "}")
	return ok && name != "" && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	}) < 0
}

// decoded returns a value's text; data holds base64, or what the sealed text is as it stands.
func decoded(field, text string) string {
	if field == "data" {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			return string(raw)
		}
	}
	return text
}

// HasSealed reports whether an object is a Secret with sealed values.
func HasSealed(object map[string]any) bool {
	if !IsSecret(object) {
		return false
	}
	for _, field := range fields {
		values, _ := object[field].(map[string]any)
		for _, value := range values {
			text, _ := value.(string)
			if _, sealed := Text(decoded(field, text)); sealed {
				return true
			}
		}
	}
	return false
}

// OpenSecret opens the sealed values of a Secret in place; other objects are left alone. It returns the texts, for
// errors to be kept free of them.
func OpenSecret(with Identities, cluster, namespace string, object map[string]any) (secrets []string, err error) {
	if !IsSecret(object) {
		return nil, nil
	}
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if own, _ := metadata["namespace"].(string); own != "" {
		namespace = own
	}
	var problems []error
	for _, field := range fields {
		values, _ := object[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			text, _ := values[key].(string)
			data, sealed := Text(decoded(field, text))
			if !sealed {
				continue
			}
			opened, err := Open(with, Binding{Cluster: cluster, Namespace: namespace, Name: name}, data)
			if err == nil && len(opened) != 1 {
				err = fmt.Errorf("%w: %d values, want 1", ErrDamaged, len(opened))
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("secret %s/%s: %s.%s: %w", namespace, name, field, key, err))
				continue
			}
			plain := fmt.Sprint(opened[0])
			secrets = append(secrets, plain)
			if field == "data" {
				plain = base64.StdEncoding.EncodeToString([]byte(plain))
			}
			values[key] = plain
		}
	}
	return secrets, errors.Join(problems...)
}
