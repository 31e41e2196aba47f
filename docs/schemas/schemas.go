// Package schemas holds the JSON Schemas of the documents that people write, for editors and for pinnace schema. They
// are generated from the Go types: go test ./docs/schemas -update.
package schemas

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
)

//go:embed *.json
var files embed.FS

// Kinds that have a schema, in the order in which people meet them.
var Kinds = []string{
	v1alpha1.KindFleet, v1alpha1.KindCluster, v1alpha1.KindClusterGroup, v1alpha1.KindBundle,
	v1alpha1.KindAgentConfig, v1alpha1.KindTrustPolicy,
}

// File is the name of the kind's schema file, such as fleet.json.
func File(kind string) string { return strings.ToLower(kind) + ".json" }

// Schema returns the schema of a kind, whatever the case of its name.
func Schema(kind string) ([]byte, error) {
	i := slices.IndexFunc(Kinds, func(known string) bool { return strings.EqualFold(known, kind) })
	if i < 0 {
		return nil, fmt.Errorf("there is no schema of kind %q; there are %s", kind, strings.Join(Kinds, ", "))
	}
	return files.ReadFile(File(Kinds[i]))
}

// All returns every schema by its file's name.
func All() (map[string][]byte, error) {
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(names))
	for _, name := range names {
		if out[path.Base(name)], err = files.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}
