package hostile

import (
	"encoding/json"
	"fmt"
	"strings"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// document publishes a well-signed target whose text was changed.
func document(change func(text string) string) func(*World) {
	return func(w *World) {
		text := string(must(json.Marshal(w.next(w.bundle("web", evil)))))
		w.publishDocument([]byte(change(text)), by(w.release))
	}
}

func replacing(old, replacement string) func(*World) {
	return document(func(text string) string {
		if !strings.Contains(text, old) {
			panic(fmt.Errorf("the target has no %s", old))
		}
		return strings.Replace(text, old, replacement, 1)
	})
}

func documentAttacks() []Attack {
	damaged := reasons(agent.ReasonDigestMismatch)
	return []Attack{
		{Name: "unknown version", Want: damaged, Prepare: replacing("pinnace.dev/v1alpha1", "pinnace.dev/v9")},
		{Name: "another kind", Want: damaged, Prepare: replacing(`"kind":"Target"`, `"kind":"Gate"`)},
		{Name: "unknown field", Want: damaged, Prepare: replacing(`"fleet":`, `"exec":"rm","fleet":`)},
		{Name: "key twice", Want: damaged, Prepare: replacing(`"generation":6`, `"generation":6,"generation":7`)},
		{Name: "key in other letters", Want: damaged, Prepare: replacing(`"generation":6`, `"Generation":7,"generation":6`)},
		{Name: "JSON nested a million deep", Want: damaged, Prepare: replacing(`"fleet":`, `"x":`+strings.Repeat("[", 1_000_000)+strings.Repeat("]", 1_000_000)+`,"fleet":`)},
		{Name: "number beyond all types", Want: damaged, Prepare: replacing(`"generation":6`, `"generation":99999999999999999999999`)},
		{Name: "number with an exponent", Want: damaged, Prepare: replacing(`"generation":6`, `"generation":6e400`)},
		{Name: "something after the document", Want: damaged, Prepare: document(func(text string) string { return text + `{"fleet":"emca"}` })},
		{Name: "cut off", Want: damaged, Prepare: document(func(text string) string { return text[:len(text)/2] })},
		{Name: "no JSON at all", Want: damaged, Prepare: document(func(string) string { return "\x00\xff" })},
		{Name: "target of more than it may have", Want: reasons(agent.ReasonTooLarge), Prepare: document(func(text string) string { return text + strings.Repeat(" ", oci.MaxTarget) })},
		{Name: "time that is none", Want: damaged, Prepare: document(func(text string) string {
			_, rest, _ := strings.Cut(text, `"expiresAt":"`)
			value, _, _ := strings.Cut(rest, `"`)
			return strings.Replace(text, value, "never", 1)
		})},
	}
}
