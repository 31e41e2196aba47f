package chart

import (
	"testing"

	"pinnace.dev/pinnace/pkg/bundler/chartref"
)

// Whatever an index holds, choosing a version of it ends with one of its entries.
func FuzzIndex(f *testing.F) {
	for _, seed := range []string{
		"apiVersion: v1\nentries:\n  web:\n  - {version: 1.0.0, urls: [web.tgz], digest: ab}\n  - {version: 2.0.0-rc.1}\n",
		"entries: {web: [{version: v1.2.3+build}, {version: latest}, null]}", "entries: {web: null}", "entries: []", "{", "", "entries: {web: [{version: 1e999}]}",
	} {
		f.Add([]byte(seed), ">=1 <3")
	}
	f.Fuzz(func(t *testing.T, data []byte, within string) {
		found, err := parseIndex(data)
		if err != nil {
			return
		}
		var versions []string
		for _, entry := range found.Entries["web"] {
			versions = append(versions, entry.Version)
		}
		at, err := chartref.Reference{Repository: "https://h", Name: "web", Version: within}.Highest(versions)
		if err == nil && at >= len(versions) {
			t.Errorf("%d of %d", at, len(versions))
		}
	})
}
