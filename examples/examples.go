// Package examples holds a fleet that works as it stands: the demo runs it and pinnace init starts from it.
package examples

import (
	"embed"
	"io/fs"
)

// The prefix all: takes the chart's _helpers.tpl and the .gitignore in.
//
//go:embed all:fleet
var tree embed.FS

// Placeholders in the fleet that init replaces.
const (
	FleetName = "demo"
	Registry  = "127.0.0.1:5000/demo"
	// Schemas is where the editor comments look, relative to the fleet's root.
	Schemas = "../../docs/schemas"
)

// Fleet returns the files of a fleet repository.
func Fleet() fs.FS {
	fleet, err := fs.Sub(tree, "fleet")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return fleet
}
