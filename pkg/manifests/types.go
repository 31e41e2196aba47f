package manifests

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// scalar is the type that a field has.
type scalar int

const (
	scalarString scalar = iota // or unknown
	scalarInteger
	scalarNumber
	scalarBoolean
)

// types know the fields of Kubernetes' own kinds, and of custom resources whose definition is in the same bundle.
type types struct {
	schemas map[schema.GroupVersionKind]map[string]any
}

// typesOf reads the definitions among the objects.
func typesOf(objects []*unstructured.Unstructured) types {
	found := types{schemas: map[schema.GroupVersionKind]map[string]any{}}
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(object.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(object.Object, "spec", "names", "kind")
		versions, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
		for _, version := range versions {
			fields, isMap := version.(map[string]any)
			if !isMap {
				continue
			}
			name, _, _ := unstructured.NestedString(fields, "name")
			if properties, ok, _ := unstructured.NestedMap(fields, "schema", "openAPIV3Schema"); ok {
				found.schemas[schema.GroupVersionKind{Group: group, Version: name, Kind: kind}] = properties
			}
		}
	}
	return found
}

// at returns the type of a field of a kind.
func (t types) at(kind schema.GroupVersionKind, path []string) scalar {
	if fields, known := t.schemas[kind]; known {
		return inSchema(fields, path)
	}
	object, err := scheme.Scheme.New(kind)
	if err != nil {
		return scalarString
	}
	return inType(reflect.TypeOf(object), path)
}

// inSchema follows a path through an OpenAPI schema.
func inSchema(fields map[string]any, path []string) scalar {
	for _, step := range path {
		next, found, _ := unstructured.NestedMap(fields, "properties", step)
		for _, other := range []string{"items", "additionalProperties"} {
			if !found {
				next, found, _ = unstructured.NestedMap(fields, other)
			}
		}
		if !found {
			return scalarString
		}
		fields = next
	}
	if either, _, _ := unstructured.NestedBool(fields, "x-kubernetes-int-or-string"); either {
		return scalarInteger
	}
	switch name, _, _ := unstructured.NestedString(fields, "type"); name {
	case "integer":
		return scalarInteger
	case "number":
		return scalarNumber
	case "boolean":
		return scalarBoolean
	}
	return scalarString
}

var intOrString = reflect.TypeFor[intstr.IntOrString]()

// inType follows a path through a Go type by its JSON names.
func inType(t reflect.Type, path []string) scalar {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(path) == 0 {
		switch {
		case t == intOrString:
			return scalarInteger
		case t.Kind() == reflect.Bool:
			return scalarBoolean
		case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
			return scalarInteger
		case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
			return scalarNumber
		}
		return scalarString
	}
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array:
		return inType(t.Elem(), path[1:])
	case reflect.Struct:
		if field, found := jsonField(t, path[0]); found {
			return inType(field, path[1:])
		}
	}
	return scalarString
}

// jsonField finds a struct's field by its JSON name, also in what it embeds.
func jsonField(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		field := t.Field(i)
		tag, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if tag == name {
			return field.Type, true
		}
		if field.Anonymous && (tag == "" || strings.Contains(options, "inline")) {
			embedded := field.Type
			for embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			if embedded.Kind() == reflect.Struct {
				if found, ok := jsonField(embedded, name); ok {
					return found, true
				}
			}
		}
	}
	return nil, false
}
