package apply

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa/jsondiff"
	jsonpatch "github.com/wI2L/jsondiff"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// IgnoredPointers returns the JSON pointers (RFC 6901) of the rules that match the object. They may hold wildcards, see
// [Expand].
func IgnoredPointers(rules []v1alpha1.DriftIgnore, object *unstructured.Unstructured) []string {
	var pointers []string
	for _, rule := range rules {
		if matches(rule.APIVersion, object.GetAPIVersion()) && matches(rule.Kind, object.GetKind()) &&
			matches(rule.Name, object.GetName()) && matches(rule.Namespace, object.GetNamespace()) {
			pointers = append(pointers, rule.JSONPointers...)
		}
	}
	return pointers
}

// matches: an empty pattern matches all, * any text. A pattern that is none matches only itself.
func matches(pattern, text string) bool {
	if pattern == "" || pattern == text {
		return true
	}
	// Names hold no slash, API versions one: path.Match's * stops there, which is what is meant.
	ok, err := path.Match(pattern, text)
	return err == nil && ok
}

// Expand returns the pointers with a segment * replaced by every key of the map, or index of the list, that is there in
// one of the objects: /spec/template/spec/containers/*/image names the images of all containers. It returns a pointer
// once, and passes over one with a wildcard that meets nothing.
func Expand(pointers []string, objects ...*unstructured.Unstructured) []string {
	found := map[string]bool{}
	for _, pointer := range pointers {
		if !strings.Contains(pointer, "*") {
			found[pointer] = true
			continue
		}
		for _, object := range objects {
			if object != nil {
				expand("", segments(pointer), object.Object, found)
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// expand follows the segments below a value and notes the pointers that lead to something.
func expand(prefix string, rest []string, value any, found map[string]bool) {
	if len(rest) == 0 {
		found[prefix] = true
		return
	}
	keys := rest[:1]
	if rest[0] == "*" {
		keys = children(value)
	}
	for _, key := range keys {
		if below, ok := child(value, key); ok {
			expand(prefix+"/"+escape(key), rest[1:], below, found)
		}
	}
}

// children are the keys of a map, or the indices of a list.
func children(value any) []string {
	switch value := value.(type) {
	case map[string]any:
		return slices.Collect(maps.Keys(value))
	case []any:
		keys := make([]string, len(value))
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		return keys
	}
	return nil
}

func escape(segment string) string {
	return strings.ReplaceAll(strings.ReplaceAll(segment, "~", "~0"), "/", "~1")
}

// WithoutFields returns the object without the fields that the pointers name; pointers to nothing are passed over.
func WithoutFields(object *unstructured.Unstructured, pointers []string) (*unstructured.Unstructured, error) {
	pointers = Expand(pointers, object)
	if len(pointers) == 0 {
		return object, nil
	}
	// From the back, so that removing an item of a list doesn't move those that are still to go.
	slices.SortFunc(pointers, func(a, b string) int { return slices.CompareFunc(segments(b), segments(a), compareSegments) })
	return patched(object, jsondiff.GenerateRemovePatch(pointers...))
}

// keepIgnored returns the object as it may be applied without touching the fields that the pointers name. A field that
// only we own would fall back to its default if it were left out, so it is applied with its live value; a field
// that another owns is left out. The live resource version makes the server refuse the apply if somebody wrote since.
func keepIgnored(object, live *unstructured.Unstructured, pointers []string, manager string) (*unstructured.Unstructured, error) {
	owned := ownFields(live, manager)
	pointers = Expand(pointers, object)
	var leave []string
	var keep []jsondiff.ReplaceOp
	for _, pointer := range pointers {
		if _, wanted := lookup(object.Object, pointer); !wanted {
			continue
		}
		at, there := counterpart(object.Object, live.Object, pointer)
		value, found := lookup(live.Object, at)
		if there && found && owns(owned, live.Object, at) {
			keep = append(keep, jsondiff.ReplaceOp{Path: pointer, Value: value})
		} else {
			leave = append(leave, pointer)
		}
	}
	if len(keep) > 0 {
		var err error
		if object, err = patched(object, jsondiff.GenerateReplacePatch(keep...)); err != nil {
			return nil, err
		}
		object.SetResourceVersion(live.GetResourceVersion())
	}
	return WithoutFields(object, leave)
}

// compareSegments orders indices of a list as numbers: 10 after 9.
func compareSegments(a, b string) int {
	x, errX := strconv.Atoi(a)
	y, errY := strconv.Atoi(b)
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	return strings.Compare(a, b)
}

func patched(object *unstructured.Unstructured, patch jsonpatch.Patch) (*unstructured.Unstructured, error) {
	object = object.DeepCopy()
	if err := jsondiff.ApplyPatchToUnstructured(object, patch); err != nil {
		return nil, fmt.Errorf("ignored fields of %s: %w", RefOf(object), err)
	}
	return object, nil
}

// segments splits a JSON pointer.
func segments(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
	}
	return parts
}

// Has says whether the object holds the field that the pointer names, or a list around it, whose items may stand
// elsewhere in another version of the object.
func Has(object *unstructured.Unstructured, pointer string) bool {
	var value any = object.Object
	for _, segment := range segments(pointer) {
		fields, isMap := value.(map[string]any)
		if !isMap {
			return true
		}
		var ok bool
		if value, ok = fields[segment]; !ok {
			return false
		}
	}
	return true
}

// lookup returns the value that the pointer names.
func lookup(value any, pointer string) (any, bool) {
	for _, segment := range segments(pointer) {
		var ok bool
		if value, ok = child(value, segment); !ok {
			return nil, false
		}
	}
	return value, true
}

// counterpart returns where the field that the pointer names in one object is in another: items of a list are told by
// their name, where they have one, because something may have put another before them.
func counterpart(from, to any, pointer string) (string, bool) {
	at := ""
	for _, segment := range segments(pointer) {
		items, isList := to.([]any)
		next, ok := child(from, segment)
		if !ok {
			return "", false
		}
		if fields, isMap := next.(map[string]any); isList && isMap && fields["name"] != nil {
			index := slices.IndexFunc(items, func(item any) bool {
				other, ok := item.(map[string]any)
				return ok && other["name"] == fields["name"]
			})
			segment = strconv.Itoa(index)
		}
		if to, ok = child(to, segment); !ok {
			return "", false
		}
		from, at = next, at+"/"+escape(segment)
	}
	return at, true
}

func child(value any, segment string) (any, bool) {
	switch value := value.(type) {
	case map[string]any:
		item, ok := value[segment]
		return item, ok
	case []any:
		index, err := strconv.Atoi(segment)
		if err != nil || index < 0 || index >= len(value) {
			return nil, false
		}
		return value[index], true
	}
	return nil, false
}

// ownFields returns the manager's applied fields in the form of fieldsV1, nil when it has none.
func ownFields(live *unstructured.Unstructured, manager string) map[string]any {
	for _, entry := range live.GetManagedFields() {
		if entry.Manager == manager && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Subresource == "" {
			return fieldsOf(entry)
		}
	}
	return nil
}

func fieldsOf(entry metav1.ManagedFieldsEntry) map[string]any {
	var fields map[string]any
	if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
		return nil
	}
	return fields
}

// Intruder names the field manager, other than us, that owns one of the fields that the pointers name, or else the
// one that wrote last; empty when nobody else ever wrote.
func Intruder(live *unstructured.Unstructured, pointers []string) string {
	var last string
	var at time.Time
	for _, entry := range live.GetManagedFields() {
		if ours(entry) {
			continue
		}
		fields := fieldsOf(entry)
		for _, pointer := range pointers {
			if owns(fields, live.Object, pointer) {
				return entry.Manager
			}
		}
		if entry.Subresource != "status" && entry.Time != nil && !entry.Time.Time.Before(at) {
			last, at = entry.Manager, entry.Time.Time
		}
	}
	return last
}

// owns says whether the field that the pointer names is among fields: itself, or a whole list or map around it.
func owns(fields map[string]any, value any, pointer string) bool {
	if fields == nil {
		return false
	}
	for _, segment := range segments(pointer) {
		if len(fields) == 0 {
			return true // owned as a whole
		}
		item, ok := child(value, segment)
		if !ok {
			return false
		}
		next, ok := fields["f:"+segment].(map[string]any)
		if _, isList := value.([]any); isList {
			next, ok = listItem(fields, item)
		}
		if !ok {
			return false
		}
		fields, value = next, item
	}
	return true
}

// listItem returns the fields of the list item with the keys that the item has.
func listItem(fields map[string]any, item any) (map[string]any, bool) {
	for name, below := range fields {
		keys, isKey := strings.CutPrefix(name, "k:")
		var want map[string]any
		if !isKey || json.Unmarshal([]byte(keys), &want) != nil {
			continue
		}
		have, ok := item.(map[string]any)
		for key, value := range want {
			ok = ok && fmt.Sprint(have[key]) == fmt.Sprint(value)
		}
		if next, isMap := below.(map[string]any); ok && isMap {
			return next, true
		}
	}
	return nil, false
}
