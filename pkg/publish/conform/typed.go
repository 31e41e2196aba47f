package conform

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"pinnace.dev/pinnace/api/document"
)

// checkTyped compares an object with the Go type of its kind.
func checkTyped(object map[string]any, typed any) []Finding {
	var c comparison
	c.structure("", reflect.TypeOf(typed).Elem(), object)
	return c.findings
}

type comparison struct {
	findings []Finding
	// observed is set below status, which API servers overwrite: nothing is missing there.
	observed bool
}

func (c *comparison) report(path, format string, args ...any) {
	c.findings = append(c.findings, Finding{Path: path, Message: fmt.Sprintf(format, args...)})
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// special are the types that read their JSON themselves and of which people write something else.
var special = map[reflect.Type]string{
	reflect.TypeFor[intstr.IntOrString](): "a whole number or a text",
	reflect.TypeFor[resource.Quantity]():  "a quantity, such as 100m, 1.5 or 2Gi",
}

func (c *comparison) value(path string, typ reflect.Type, value any) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if text, isText := value.(string); value == nil || isText && strings.Contains(text, "${") {
		return // not set, or a variable that only the cluster knows
	}
	if reflect.PointerTo(typ).Implements(unmarshaler) {
		c.special(path, typ, value)
		return
	}
	switch typ.Kind() {
	case reflect.Struct:
		c.structure(path, typ, value)
	case reflect.Map:
		fields, is := value.(map[string]any)
		if !is {
			c.wrong(path, "a mapping", value)
			return
		}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			c.value(join(path, key), typ.Elem(), fields[key])
		}
	case reflect.Slice:
		c.list(path, typ, value)
	case reflect.String:
		if _, is := value.(string); !is {
			c.wrong(path, "a text", value)
		}
	case reflect.Bool:
		if _, is := value.(bool); !is {
			c.wrong(path, "true or false", value)
		}
	case reflect.Float32, reflect.Float64:
		if _, is := asFloat(value); !is {
			c.wrong(path, "a number", value)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.whole(path, typ, value)
	}
}

func (c *comparison) structure(path string, typ reflect.Type, value any) {
	object, is := value.(map[string]any)
	if !is {
		c.wrong(path, "a mapping", value)
		return
	}
	fields := typeFields(typ)
	for _, name := range slices.Sorted(maps.Keys(object)) {
		field, known := fields[name]
		if !known {
			c.report(join(path, name), "unknown field %q%s", name, document.Suggestion(name, slices.Sorted(maps.Keys(fields))))
			continue
		}
		below := *c
		below.findings, below.observed = nil, c.observed || path == "" && name == "status"
		below.value(join(path, name), field.typ, object[name])
		c.findings = append(c.findings, below.findings...)
	}
	if c.observed {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if observed := path == "" && name == "status"; fields[name].required && object[name] == nil && !observed {
			c.report(join(path, name), "is required, and not set")
		}
	}
}

func (c *comparison) list(path string, typ reflect.Type, value any) {
	if typ.Elem().Kind() == reflect.Uint8 {
		text, is := value.(string)
		if !is {
			c.wrong(path, "base64", value)
		} else if _, err := base64.StdEncoding.DecodeString(text); err != nil {
			c.report(path, "is not base64: %v", err)
		}
		return
	}
	items, is := value.([]any)
	if !is {
		c.wrong(path, "a list", value)
		return
	}
	for i, item := range items {
		c.value(fmt.Sprintf("%s[%d]", path, i), typ.Elem(), item)
	}
}

func (c *comparison) whole(path string, typ reflect.Type, value any) {
	number, is := value.(int64)
	// 1e3 is sent as 1000.
	if float, isFloat := value.(float64); isFloat && float == math.Trunc(float) && float >= math.MinInt64 && float < math.MaxInt64 {
		number, is = int64(float), true
	}
	if !is {
		c.wrong(path, "a whole number", value)
		return
	}
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	switch typ.Kind() {
	case reflect.Int32:
		least, most = math.MinInt32, math.MaxInt32
	case reflect.Uint32:
		least, most = 0, math.MaxUint32
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint64:
		least = 0
	}
	if number < least || number > most {
		c.report(path, "%d is not between %d and %d", number, least, most)
	}
}

// special lets the type read the value.
func (c *comparison) special(path string, typ reflect.Type, value any) {
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(typ).Interface())
	}
	switch wanted := special[typ]; {
	case err == nil:
	case wanted != "":
		c.wrong(path, wanted, value)
	default:
		c.report(path, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func (c *comparison) wrong(path, wanted string, got any) {
	c.report(path, "must be %s, got %s", wanted, describe(got))
}

// describe names a value in an error.
func describe(value any) string {
	switch value := value.(type) {
	case string:
		if runes := []rune(value); len(runes) > 60 {
			value = string(runes[:60]) + "…"
		}
		return "the text " + strconv.Quote(value)
	case bool:
		return strconv.FormatBool(value)
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	}
	return fmt.Sprintf("the number %v", value)
}

func asFloat(value any) (float64, bool) {
	switch value := value.(type) {
	case int64:
		return float64(value), true
	case float64:
		return value, true
	}
	return 0, false
}

// join appends a field's name to a path. Names with dots are told from steps.
func join(path, name string) string {
	switch {
	case strings.ContainsAny(name, ".[]"):
		return path + "[" + name + "]"
	case path == "":
		return name
	}
	return path + "." + name
}
