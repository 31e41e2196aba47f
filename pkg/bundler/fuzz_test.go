package bundler

import (
	"strings"
	"testing"

	"pinnace.dev/pinnace/pkg/bundler/source"
)

// A remote base is a repository that may be asked for and a folder inside of it, or an error.
func FuzzParseBase(f *testing.F) {
	for _, seed := range []string{
		"https://github.com/acme/bases//web?ref=v1", "github.com/acme/bases/web?ref=v1", "git::https://h/r.git//a/../b?ref=x",
		"git@host:org/repo.git//x?ref=1", "ssh://git@h/r//?version=2", "https://h/r//../..?ref=1", "https://h/%zz?ref=%", "?ref=a", "file:///etc//passwd?ref=1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, ref, err := parseBase(text)
		if err != nil {
			return
		}
		if ref == "" || !source.IsURL(parsed.git) || parsed.path == ".." || strings.HasPrefix(parsed.path, "../") || strings.HasPrefix(parsed.path, "/") {
			t.Errorf("%q: got %+v at %q", text, parsed, ref)
		}
	})
}
