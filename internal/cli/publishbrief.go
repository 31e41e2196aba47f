package cli

import (
	"fmt"
	"slices"

	"pinnace.dev/pinnace/pkg/target"
)

// A table lists all bundles, and all targets, up to allResults of them; of more it shows the first fewResults that
// changed.
const (
	allResults = 30
	fewResults = 20
)

// brief leaves out of a publish's table what a terminal has no room for; bundles come first in it.
func brief(v *view, bundles int) {
	shown := slices.Concat(briefRows(v.rows[:bundles]), briefRows(v.rows[bundles:]))
	switch left := len(v.rows) - len(shown); {
	case left > 0 && len(shown) == 0:
		v.footer = "unchanged; -o wide shows what there is"
	case left > 0:
		v.footer = fmt.Sprintf("… and %d more; -o wide shows them all", left)
	}
	v.rows = shown
}

func briefRows(rows [][]string) [][]string {
	if len(rows) <= allResults {
		return rows
	}
	const action = 1
	changed := slices.DeleteFunc(slices.Clone(rows), func(row []string) bool { return row[action] == string(target.Unchanged) })
	return changed[:min(len(changed), fewResults)]
}
