package cli

import (
	"fmt"
	"testing"

	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target"
)

// A small fleet is listed whole; of a large one only what changed, and not without end.
func TestPublishTableIsBounded(t *testing.T) {
	for _, test := range []struct {
		targets, changed, shown int
		footer                  string
	}{
		{targets: 30, changed: 0, shown: 30},
		{targets: 31, changed: 0, shown: 0, footer: "… and 31 more; -o wide shows them all"},
		{targets: 5000, changed: 7, shown: 7, footer: "… and 4993 more; -o wide shows them all"},
		{targets: 5000, changed: 5000, shown: 20, footer: "… and 4980 more; -o wide shows them all"},
	} {
		result := publish.Result{Bundles: []publish.BundleResult{{Name: "web", Action: target.Unchanged}}}
		for i := range test.targets {
			action := target.Unchanged
			if i >= test.targets-test.changed {
				action = target.Changed
			}
			result.Targets = append(result.Targets, publish.TargetResult{Cluster: fmt.Sprintf("c-%04d", i), Action: action})
		}
		v := publishView(result)
		brief(&v, len(result.Bundles))
		if shown := len(v.rows) - 1; shown != test.shown || v.footer != test.footer || v.rows[0][0] != "bundle/web" {
			t.Errorf("%d targets, %d changed: %d shown, footer %q; want %d and %q", test.targets, test.changed, shown, v.footer, test.shown, test.footer)
		}
		if len(v.names) != test.targets+1 {
			t.Errorf("%d names, want all", len(v.names))
		}
	}
}
