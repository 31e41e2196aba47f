package fleetyaml

import (
	"path"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
)

// FuzzIgnore: each line of a .fleetignore that is a plain name leaves out that name, wherever it is, and what is below it;
// a comment or an empty line nothing.
func FuzzIgnore(f *testing.F) {
	for _, seed := range []string{
		"docs/*\ndrafts\n*-values.yaml\n", "# a comment\r\n\r\n", "a b \t\n", "[", "**", "/*", "../x", "{a,b}", "a/**/b", "\\", "\x00\n\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		globs := ignoredGlobs(content)
		if len(globs) > 2*(strings.Count(content, "\n")+1) {
			t.Fatalf("%q: %d globs", content, len(globs))
		}
		leftOut := func(name string) bool {
			for _, glob := range globs {
				if matched, err := doublestar.Match(glob, name); err == nil && matched {
					return true
				}
			}
			return false
		}
		for line := range strings.Lines(content) {
			name := strings.TrimRight(line, "\r\n\t ")
			if name == "" || strings.HasPrefix(name, "#") || path.Clean("/"+name) != "/"+name || strings.ContainsAny(name, `*?[]{}\`) {
				continue
			}
			if !leftOut(name) || !leftOut("sub/"+name) || !leftOut(name+"/below.yaml") {
				t.Errorf("%q doesn't leave out %q", content, name)
			}
		}
		if strings.Trim(content, " \t\r\n") == "" && len(globs) > 0 {
			t.Errorf("%q became %q", content, globs)
		}
	})
}
