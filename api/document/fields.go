package document

import (
	"reflect"
	"slices"
	"strings"
)

// fields are the names that a struct knows in documents.
type fields struct {
	byName map[string]field
	names  []string // sorted
}

type field struct {
	typ reflect.Type
	// enum lists what the field may say, from the tag that JSON Schemas are generated from; anything when empty.
	enum []string
}

// fieldsOf follows encoding/json: tags name fields, embedded structs without a name are flattened, "-" hides.
func fieldsOf(typ reflect.Type) fields {
	out := fields{byName: map[string]field{}}
	collectFields(typ, out.byName)
	for name := range out.byName {
		out.names = append(out.names, name)
	}
	slices.Sort(out.names)
	return out
}

func collectFields(typ reflect.Type, into map[string]field) {
	for i := range typ.NumField() {
		member := typ.Field(i)
		tag := member.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, _, _ := strings.Cut(tag, ",")
		if member.Anonymous && name == "" {
			embedded := member.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			if embedded.Kind() == reflect.Struct {
				collectFields(embedded, into)
				continue
			}
		}
		if !member.IsExported() {
			continue
		}
		if name == "" {
			name = member.Name
		}
		into[name] = field{typ: member.Type, enum: enumOf(member.Tag.Get("jsonschema"))}
	}
}

// enumOf reads enum=a,enum=b.
func enumOf(tag string) []string {
	var enum []string
	for _, option := range strings.Split(tag, ",") {
		if value, ok := strings.CutPrefix(option, "enum="); ok {
			enum = append(enum, value)
		}
	}
	return enum
}

// Suggestion ends an error about an unknown name: "; did you mean …?" when a known one is near, the known names when
// they are few.
func Suggestion(name string, known []string) string { return suggestion(name, known) }

// suggestion returns "; did you mean …?" when a known name is near, the known names when they are few.
func suggestion(name string, known []string) string {
	const fewNames = 8
	best, distance := "", len(name)/3+2
	for _, candidate := range known {
		if strings.EqualFold(candidate, name) {
			best = candidate
			break
		}
		if d := editDistance(name, candidate, distance); d < distance {
			best, distance = candidate, d
		}
	}
	switch {
	case best != "":
		return "; did you mean \"" + best + "\"?"
	case len(known) > 0 && len(known) <= fewNames:
		return "; known are " + strings.Join(known, ", ")
	}
	return "; remove it"
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours; limit when it is that or more.
func editDistance(a, b string, limit int) int {
	if abs(len(a)-len(b)) >= limit {
		return limit
	}
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return min(last[len(b)], limit)
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
