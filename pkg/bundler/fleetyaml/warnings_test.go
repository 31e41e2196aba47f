package fleetyaml_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/pkg/bundler/fleetyaml"
)

// What is so in many files is said once, with how many they are; what is so in one stays what it is.
func TestWarnings(t *testing.T) {
	finding := func(file, field string, harmless, general bool) fleetyaml.Finding {
		return fleetyaml.Finding{
			Err:   document.Error{File: file, Line: 1, Column: 2, Message: field + ": is otherwise"},
			Field: field, Harmless: harmless, General: general,
		}
	}
	for _, test := range []struct {
		name     string
		findings []fleetyaml.Finding
		want     []string
	}{
		{name: "none"},
		{"one of each kind", []fleetyaml.Finding{
			finding("a", "namespace", true, true), finding("a", "keep", true, false), finding("a", "chart", false, false),
		}, []string{"a:1:2: keep: is otherwise", "a:1:2: namespace: is otherwise"}},
		{"two files", []fleetyaml.Finding{
			finding("a", "namespace", true, true), finding("a", "keep", true, false),
			finding("b", "namespace", true, true), finding("b", "keep", true, false),
		}, []string{"a:1:2: keep: is otherwise", "b:1:2: keep: is otherwise", "a:1:2: namespace: is otherwise (and so in 1 more file)"}},
		{"three files", []fleetyaml.Finding{
			finding("a", "namespace", true, true), finding("b", "namespace", true, true), finding("c", "namespace", true, true),
		}, []string{"a:1:2: namespace: is otherwise (and so in 2 more files)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, fleetyaml.Warnings(test.findings)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
