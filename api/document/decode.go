package document

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// Decode fills the value that into points to. The error is an [Errors] with everything that is wrong: unknown fields,
// duplicate keys, wrong types, values that an enum in a jsonschema tag doesn't list. Numbers in free values become int64 when they are whole, float64 otherwise.
func (d Document) Decode(into any) error {
	target := reflect.TypeOf(into)
	if target == nil || target.Kind() != reflect.Pointer {
		return fmt.Errorf("decode %s: into must be a pointer, got %T", d.File, into)
	}
	w := walker{document: d}
	value := w.walk(d.root, target.Elem(), d.Kind, 0)
	if err := w.findings.orNil(); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("decode %s: %w", d.File, err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, into); err != nil {
		return d.at(d.root, "%v", err)
	}
	return nil
}

// walker checks nodes against Go types and turns them into JSON values on the way.
type walker struct {
	document Document
	findings Errors
}

func (w *walker) report(node *yaml.Node, format string, args ...any) {
	w.findings = append(w.findings, w.document.at(node, format, args...))
}

var (
	durationType        = reflect.TypeFor[metav1.Duration]()
	jsonUnmarshalerType = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// walk returns the node as a JSON value, and reports what does not fit the type. path is for people.
func (w *walker) walk(node *yaml.Node, typ reflect.Type, path string, depth int) any {
	if depth > MaxDepth {
		w.report(node, "nested deeper than %d levels", MaxDepth)
		return nil
	}
	if node.Kind == yaml.AliasNode {
		w.report(node, "alias *%s is not supported; write the value out", node.Value)
		return nil
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if isNull(node) {
		return nil
	}
	if isLeaf(typ) {
		return w.walkLeaf(node, typ, path, depth)
	}
	switch typ.Kind() {
	case reflect.Struct:
		return w.walkStruct(node, typ, path, depth)
	case reflect.Map:
		return w.walkMap(node, typ.Elem(), path, depth)
	case reflect.Slice, reflect.Array:
		if node.Kind != yaml.SequenceNode {
			w.wrongType(node, path, "a list")
			return nil
		}
		return w.walkItems(node, typ.Elem(), path, depth)
	case reflect.Interface:
		return w.walkFree(node, typ, path, depth)
	default:
		return w.walkScalar(node, typ, path)
	}
}

// isLeaf says whether the type reads itself.
func isLeaf(typ reflect.Type) bool {
	pointer := reflect.PointerTo(typ)
	return typ.Kind() != reflect.Interface && (pointer.Implements(jsonUnmarshalerType) || pointer.Implements(textUnmarshalerType))
}

func (w *walker) walkLeaf(node *yaml.Node, typ reflect.Type, path string, depth int) any {
	if typ == durationType && !isString(node) {
		w.wrongType(node, path, "a duration such as 30s, 5m or 720h")
		return nil
	}
	before := len(w.findings)
	value := w.walkFree(node, reflect.TypeFor[any](), path, depth)
	if len(w.findings) > before {
		return nil
	}
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(typ).Interface())
	}
	switch {
	case err != nil && typ == durationType:
		w.wrongType(node, path, "a duration such as 30s, 5m or 720h")
	case err != nil:
		w.report(node, "%s: %s is not valid: %v", path, describe(node), err)
	}
	return value
}

func (w *walker) walkStruct(node *yaml.Node, typ reflect.Type, path string, depth int) any {
	known := fieldsOf(typ)
	return w.walkEntries(node, path, func(key, value *yaml.Node) any {
		field, ok := known.byName[key.Value]
		if !ok {
			w.report(key, "unknown field %q in %s%s", key.Value, path, suggestion(key.Value, known.names))
			return nil
		}
		if len(field.enum) > 0 && isString(value) && value.Value != "" && !slices.Contains(field.enum, value.Value) {
			w.report(value, "%s.%s must be one of %s, got %s", path, key.Value, strings.Join(field.enum, ", "), describe(value))
		}
		return w.walk(value, field.typ, path+"."+key.Value, depth+1)
	})
}

func (w *walker) walkMap(node *yaml.Node, elem reflect.Type, path string, depth int) any {
	return w.walkEntries(node, path, func(key, value *yaml.Node) any {
		return w.walk(value, elem, path+"."+key.Value, depth+1)
	})
}

func (w *walker) walkEntries(node *yaml.Node, path string, walk func(key, value *yaml.Node) any) any {
	if node.Kind != yaml.MappingNode {
		w.wrongType(node, path, "a mapping")
		return nil
	}
	out := make(map[string]any, len(node.Content)/2)
	lines := make(map[string]int, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			w.report(key, "a key in %s must be a string, got %s", path, describe(key))
			continue
		case key.ShortTag() == "!!merge":
			w.report(key, "merge key << in %s is not supported; write the entries out", path)
			continue
		case !isString(key):
			w.report(key, "a key in %s must be a string, got %s; put it in quotes", path, describe(key))
			continue
		}
		if line, ok := lines[key.Value]; ok {
			w.report(key, "duplicate key %q in %s; it is set in line %d already, remove one", key.Value, path, line)
			continue
		}
		lines[key.Value] = key.Line
		out[key.Value] = walk(key, value)
	}
	return out
}

func (w *walker) walkItems(node *yaml.Node, elem reflect.Type, path string, depth int) any {
	out := make([]any, len(node.Content))
	for i, item := range node.Content {
		out[i] = w.walk(item, elem, fmt.Sprintf("%s[%d]", path, i), depth+1)
	}
	return out
}

// walkFree takes whatever JSON can say.
func (w *walker) walkFree(node *yaml.Node, anyType reflect.Type, path string, depth int) any {
	if node.Kind == yaml.MappingNode {
		return w.walkMap(node, anyType, path, depth)
	}
	if node.Kind == yaml.SequenceNode {
		return w.walkItems(node, anyType, path, depth)
	}
	switch tag := node.ShortTag(); tag {
	case "!!str", "!!timestamp":
		return node.Value
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var value any
		if err := node.Decode(&value); err != nil {
			w.report(node, "%s: %s is not valid", path, describe(node))
			return nil
		}
		if f, ok := value.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			w.report(node, "%s: %s is not a number that JSON knows; put it in quotes", path, describe(node))
			return nil
		}
		return value
	default:
		w.report(node, "%s: tag %s is not supported", path, tag)
		return nil
	}
}

func (w *walker) walkScalar(node *yaml.Node, typ reflect.Type, path string) any {
	if node.Kind != yaml.ScalarNode {
		w.wrongType(node, path, scalarName(typ))
		return nil
	}
	if typ.Kind() == reflect.String {
		if !isString(node) {
			w.report(node, "%s must be a string, got %s; put it in quotes", path, describe(node))
		}
		return node.Value
	}
	// Only what YAML itself resolves counts: the decoder would also take "yes" for true.
	into := reflect.New(typ)
	if tag := node.ShortTag(); !fits(tag, typ.Kind()) || node.Decode(into.Interface()) != nil {
		w.wrongType(node, path, scalarName(typ))
		return nil
	}
	return into.Elem().Interface()
}

func fits(tag string, kind reflect.Kind) bool {
	switch {
	case kind == reflect.Bool:
		return tag == "!!bool"
	case kind >= reflect.Int && kind <= reflect.Uintptr:
		return tag == "!!int"
	case kind == reflect.Float32 || kind == reflect.Float64:
		return tag == "!!int" || tag == "!!float"
	}
	return false
}

func scalarName(typ reflect.Type) string {
	switch typ.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}

func (w *walker) wrongType(node *yaml.Node, path, want string) {
	w.report(node, "%s must be %s, got %s", path, want, describe(node))
}

// describe names what a node holds, with the offending text.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		return describeScalar(node)
	}
}

func describeScalar(node *yaml.Node) string {
	const maxText = 60
	text := strings.ToValidUTF8(node.Value, "?")
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	switch node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + text
	case "!!bool":
		return "the boolean " + text
	}
	return fmt.Sprintf("%q", text)
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// isString says whether a scalar is text. Dates are: no field of ours is a YAML timestamp.
func isString(node *yaml.Node) bool {
	if node.Kind != yaml.ScalarNode {
		return false
	}
	tag := node.ShortTag()
	return tag == "!!str" || tag == "!!timestamp"
}
