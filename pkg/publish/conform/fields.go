package conform

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

var indexPattern = regexp.MustCompile(`\[[^\]]*\]`)

// fieldsOf returns the names that a Go type of Kubernetes knows at a path.
func fieldsOf(object any, path []string) []string {
	typ := reflect.TypeOf(object)
	for _, step := range path {
		step = indexPattern.ReplaceAllString(step, "")
		typ = element(typ)
		if typ.Kind() == reflect.Map {
			typ = typ.Elem()
			continue
		}
		if typ.Kind() != reflect.Struct {
			return nil
		}
		field, found := jsonFields(typ)[step]
		if !found {
			return nil
		}
		typ = field
	}
	if typ = element(typ); typ.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for name := range jsonFields(typ) {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// element is what a pointer leads to and what a list holds.
func element(typ reflect.Type) reflect.Type {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	return typ
}

func jsonFields(typ reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" && (field.Anonymous || strings.Contains(options, "inline")) {
			if inner := element(field.Type); inner.Kind() == reflect.Struct {
				for key, value := range jsonFields(inner) {
					fields[key] = value
				}
			}
			continue
		}
		if name != "" && name != "-" {
			fields[name] = field.Type
		}
	}
	return fields
}
