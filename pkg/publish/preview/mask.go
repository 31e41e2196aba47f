package preview

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// What stands for a secret, in the words of kubectl diff.
const (
	masked       = "***"
	maskedBefore = "*** (before)"
	maskedAfter  = "*** (after)"
)

// Mask hides secrets: the content of Secrets, what stands under keys that look secret, and, in everything rendered, the
// texts that stood under such keys. Its zero value is ready.
type Mask struct {
	before, after map[string]string // secret text to what stands for it
}

// minRemembered is how long a secret must be to be looked for inside of other texts: shorter ones are in every text.
const minRemembered = 6

// fields hides what looks secret in both, and remembers it.
func (m *Mask) fields(before, after any) (hiddenBefore, hiddenAfter any) {
	return m.walk(before, after, false)
}

// walk returns copies of both, in which what is hidden is replaced.
func (m *Mask) walk(before, after any, hide bool) (any, any) {
	b, beforeMap := before.(map[string]any)
	a, afterMap := after.(map[string]any)
	if beforeMap || afterMap {
		outB, outA := map[string]any{}, map[string]any{}
		// As in a container's env, the name may stand beside the value.
		named := looksSecret(text(b["name"])) || looksSecret(text(a["name"]))
		for _, key := range union(b, a) {
			valueB, inB := b[key]
			valueA, inA := a[key]
			maskedB, maskedA := m.walk(valueB, valueA, hide || looksSecret(key) || named && key == "value")
			if inB {
				outB[key] = maskedB
			}
			if inA {
				outA[key] = maskedA
			}
		}
		return m.either(before, outB, beforeMap, hide), m.either(after, outA, afterMap, hide)
	}
	listB, beforeList := before.([]any)
	listA, afterList := after.([]any)
	if beforeList || afterList {
		outB, outA := slices.Clone(listB), slices.Clone(listA)
		for i := range max(len(listB), len(listA)) {
			var itemB, itemA any
			if i < len(listB) {
				itemB = listB[i]
			}
			if i < len(listA) {
				itemA = listA[i]
			}
			itemB, itemA = m.walk(itemB, itemA, hide)
			if i < len(listB) {
				outB[i] = itemB
			}
			if i < len(listA) {
				outA[i] = itemA
			}
		}
		return m.either(before, outB, beforeList, hide), m.either(after, outA, afterList, hide)
	}
	if !hide {
		return before, after
	}
	return m.scalars(before, after)
}

// either returns the copy of a map or list, or, where the other side only is one, the scalar.
func (m *Mask) either(value, copied any, isCopied, hide bool) any {
	switch {
	case isCopied:
		return copied
	case hide:
		value, _ = m.scalars(value, nil)
	}
	return value
}

func (m *Mask) scalars(before, after any) (any, any) {
	standsB, standsA := masked, masked
	if secret(before) && secret(after) && !reflect.DeepEqual(before, after) {
		standsB, standsA = maskedBefore, maskedAfter
	}
	if secret(before) {
		m.before = remember(m.before, before, standsB)
		before = standsB
	}
	if secret(after) {
		m.after = remember(m.after, after, standsA)
		after = standsA
	}
	return before, after
}

// secret reports whether a value can be one: switches and nothing at all are none.
func secret(value any) bool {
	switch value := value.(type) {
	case nil, bool:
		return false
	case string:
		return value != ""
	}
	return true
}

func remember(known map[string]string, value any, stands string) map[string]string {
	if known == nil {
		known = map[string]string{}
	}
	if text := text(value); len(text) >= minRemembered {
		known[text] = stands
		known[base64.StdEncoding.EncodeToString([]byte(text))] = stands
	}
	return known
}

func text(value any) string {
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// objects hides what is secret in an object before and after; either may be nil.
func (m *Mask) objects(before, after map[string]any) (hiddenBefore, hiddenAfter map[string]any) {
	b, a := any(before), any(after)
	if isSecret(before) || isSecret(after) {
		b, a = m.content(before, after)
	} else {
		// Keys anywhere else name things: a volume's secret is no secret.
		b, a = m.named(b, a)
	}
	hiddenBefore, _ = replaceTexts(b, m.before).(map[string]any)
	hiddenAfter, _ = replaceTexts(a, m.after).(map[string]any)
	return hiddenBefore, hiddenAfter
}

func isSecret(object map[string]any) bool {
	return object["apiVersion"] == "v1" && object["kind"] == "Secret"
}

// lastApplied is where kubectl apply leaves the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// content hides a Secret's.
func (m *Mask) content(before, after map[string]any) (any, any) {
	outB, outA := maps.Clone(before), maps.Clone(after)
	for _, key := range []string{"data", "stringData"} {
		b, a := m.walk(before[key], after[key], true)
		put(outB, key, b)
		put(outA, key, a)
	}
	for _, object := range []map[string]any{outB, outA} {
		metadata, _ := object["metadata"].(map[string]any)
		annotations, _ := metadata["annotations"].(map[string]any)
		if annotations[lastApplied] != nil {
			annotations = maps.Clone(annotations)
			annotations[lastApplied] = masked
			metadata = maps.Clone(metadata)
			metadata["annotations"] = annotations
			object["metadata"] = metadata
		}
	}
	return outB, outA
}

func put(object map[string]any, key string, value any) {
	if _, there := object[key]; there {
		object[key] = value
	}
}

// named hides values in lists of names and values, such as a container's env, and the keys of a ConfigMap that look
// secret.
func (m *Mask) named(before, after any) (any, any) {
	b, beforeMap := before.(map[string]any)
	a, afterMap := after.(map[string]any)
	if !beforeMap && !afterMap {
		return m.namedItems(before, after)
	}
	outB, outA := maps.Clone(b), maps.Clone(a)
	secretName := looksSecret(text(b["name"])) || looksSecret(text(a["name"]))
	config := b["kind"] == "ConfigMap" || a["kind"] == "ConfigMap"
	for _, key := range union(b, a) {
		walk := m.named
		switch {
		case key == "value" && secretName:
			walk = func(b, a any) (any, any) { return m.walk(b, a, true) }
		case key == "data" && config:
			walk = m.fields
		}
		valueB, valueA := walk(b[key], a[key])
		put(outB, key, valueB)
		put(outA, key, valueA)
	}
	if !beforeMap {
		return before, outA
	}
	if !afterMap {
		return outB, after
	}
	return outB, outA
}

func (m *Mask) namedItems(before, after any) (any, any) {
	listB, _ := before.([]any)
	listA, _ := after.([]any)
	outB, outA := slices.Clone(listB), slices.Clone(listA)
	for i := range max(len(listB), len(listA)) {
		switch {
		case i >= len(listB):
			_, outA[i] = m.named(nil, listA[i])
		case i >= len(listA):
			outB[i], _ = m.named(listB[i], nil)
		default:
			outB[i], outA[i] = m.named(listB[i], listA[i])
		}
	}
	if listB != nil {
		before = outB
	}
	if listA != nil {
		after = outA
	}
	return before, after
}

// replaceTexts returns a copy in which known secrets are replaced wherever they appear.
func replaceTexts(value any, known map[string]string) any {
	if len(known) == 0 {
		return value
	}
	switch value := value.(type) {
	case map[string]any:
		if value == nil {
			return value
		}
		out := make(map[string]any, len(value))
		for key, item := range value {
			out[key] = replaceTexts(item, known)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = replaceTexts(item, known)
		}
		return out
	case string:
		// The longest first: a secret may hold another.
		for _, secret := range slices.SortedFunc(maps.Keys(known), func(a, b string) int {
			if len(a) != len(b) {
				return len(b) - len(a)
			}
			return strings.Compare(a, b)
		}) {
			value = strings.ReplaceAll(value, secret, known[secret])
		}
		return value
	}
	return value
}

// secretWords are what keys of secrets are made of, in lower case without separators.
var secretWords = []string{
	"password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "accesskey", "privatekey",
	"signingkey", "encryptionkey", "connectionstring", "dockerconfigjson", "htpasswd",
}

// looksSecret reports whether a key names a secret's value. One that names where a secret is kept does not.
func looksSecret(key string) bool {
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' {
			return -1
		}
		return r
	}, strings.ToLower(key))
	for _, end := range []string{"name", "ref", "refs", "existingsecret"} {
		if strings.HasSuffix(plain, end) {
			return false
		}
	}
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(plain, word) })
}
