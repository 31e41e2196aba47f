package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/envsubst"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// AnnotationSubstitute, as annotation or label with the value "disabled", keeps variables out of an object.
const AnnotationSubstitute = v1alpha1.Group + "/substitute"

// Substitute replaces ${NAME} in the objects, with Flux's syntax: defaults, and $${NAME} for a literal one. Objects are
// left alone when variables is nil, and those that opt out by annotation or label always. A name without a value
// and without a default is an error.
//
// A field that is nothing but a variable gets the type that the object's kind has there, so that both replicas: ${N}
// and id: "${ID}" work when both values are digits; where the type is unknown it stays a string.
func Substitute(objects []*unstructured.Unstructured, variables map[string]string) error {
	if variables == nil {
		return nil
	}
	types := typesOf(objects)
	replacer := replacer{value: func(name string) (string, bool) {
		value, found := variables[name]
		return value, found
	}}
	for _, object := range objects {
		if object.GetAnnotations()[AnnotationSubstitute] == "disabled" || object.GetLabels()[AnnotationSubstitute] == "disabled" {
			continue
		}
		replacer.kind = func(path []string) scalar { return types.at(object.GroupVersionKind(), path) }
		content, err := replacer.replace(object.Object, nil)
		if err != nil {
			return fmt.Errorf("substitute variables in %s: %w", Describe(object), err)
		}
		object.Object = content.(map[string]any) //nolint:forcetypeassert // a map stays a map
		if err := checkObject(object); err != nil {
			return fmt.Errorf("substitute variables: %w", err)
		}
	}
	return nil
}

type replacer struct {
	value func(string) (string, bool)
	kind  func(path []string) scalar
}

// replace returns node with variables replaced in all its strings and keys.
func (r replacer) replace(node any, path []string) (any, error) {
	switch node := node.(type) {
	case map[string]any:
		out := make(map[string]any, len(node))
		for _, key := range slices.Sorted(maps.Keys(node)) {
			name, err := r.text(key, path)
			if err != nil {
				return nil, err
			}
			if _, twice := out[name]; twice {
				return nil, fmt.Errorf("%s: two keys become %q", strings.Join(path, "."), name)
			}
			if out[name], err = r.replace(node[key], append(path[:len(path):len(path)], key)); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(node))
		for i, item := range node {
			var err error
			if out[i], err = r.replace(item, append(path[:len(path):len(path)], strconv.Itoa(i))); err != nil {
				return nil, err
			}
		}
		return out, nil
	case string:
		text, err := r.text(node, path)
		if err != nil || !strings.HasPrefix(node, "${") || !strings.HasSuffix(node, "}") {
			return text, err
		}
		return typed(text, r.kind(path)), nil
	}
	return node, nil
}

func (r replacer) text(text string, path []string) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	replaced, err := envsubst.Eval(text, r.value)
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(path, "."), err)
	}
	return replaced, nil
}

// typed turns text into what a field of that type takes; what doesn't fit is left for the API server to explain.
func typed(text string, kind scalar) any {
	switch kind {
	case scalarInteger:
		if value, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value
		}
	case scalarNumber:
		if value, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value
		}
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			return value
		}
	case scalarBoolean:
		if value, err := strconv.ParseBool(text); err == nil {
			return value
		}
	}
	return text
}
