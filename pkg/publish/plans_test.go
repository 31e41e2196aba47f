package publish

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

const templated = `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
spec:
  variables: {SITE: "${ .cluster.values.site }"}
  overrides: [{when: {clusterSelector: {matchLabels: {ring: canary}}}, variables: {RING: canary}}]
`

func placed(name, ring, value string) string {
	return fmt.Sprintf("apiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s, labels: {ring: %q}}\nspec: {values: {site: %s}}\n", name, ring, value)
}

// Whatever changes, what is remembered of the last publish makes no difference.
func TestRememberedPlans(t *testing.T) {
	registry := oci.NewMemory()
	files := map[string]string{
		"bundles/b/pinnace.yaml": templated,
		"clusters/all.yaml":      placed("north", "", "3"),
		"clusters/east.yaml":     placed("east", "canary", "1"),
		"clusters/west.yaml":     placed("west", "", "2"),
	}
	dir := write(t, t.TempDir(), files)
	opts := options(t, dir, releaseSigner(t))
	mustRun(t, registry, opts)
	for _, test := range []struct {
		name    string
		change  map[string]string
		planned int // clusters that are planned anew
		changed int
	}{
		{name: "nothing", planned: 1},
		{name: "what a bundle holds", change: map[string]string{"bundles/a/cm.yaml": configMap("a", "2")}, planned: 1, changed: 3},
		{name: "a cluster's value", change: map[string]string{"clusters/west.yaml": placed("west", "", "4")}, planned: 2, changed: 1},
		{name: "a cluster's label", change: map[string]string{"clusters/west.yaml": placed("west", "canary", "4")}, planned: 2, changed: 1},
		{name: "the first cluster", change: map[string]string{"clusters/east.yaml": placed("east", "canary", "7")}, planned: 2, changed: 1},
		{name: "a new cluster", change: map[string]string{"clusters/aaa.yaml": placed("aaa", "", "5")}, planned: 2, changed: 1},
		{
			name:    "what a bundle's document says",
			change:  map[string]string{"bundles/b/pinnace.yaml": templated + "  namespace: other\n"},
			planned: 4, changed: 4,
		},
		{name: "the fleet", change: map[string]string{"pinnace.yaml": fleetFile + "  validity: 48h\n"}, planned: 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			maps.Copy(files, test.change)
			write(t, dir, files)
			loaded, err := Load(t.Context(), opts.LoadOptions)
			if err != nil {
				t.Fatal(err)
			}
			known := readPlans(opts.CacheDir, loaded)
			if planned := len(loaded.Fleet.Clusters) - len(known.recall(loaded.Fleet)); planned != test.planned {
				t.Errorf("%d clusters are planned, want %d", planned, test.planned)
			}
			afresh := opts
			afresh.CacheDir, afresh.DryRun = t.TempDir(), true
			want := mustRun(t, registry, afresh)
			remembering := opts
			remembering.DryRun = true
			if diff := cmp.Diff(want, mustRun(t, registry, remembering)); diff != "" {
				t.Errorf("remembering makes a difference (-afresh +remembering):\n%s", diff)
			}
			changed := 0
			for _, target := range mustRun(t, registry, opts).Targets {
				if target.Action != "unchanged" {
					changed++
				}
			}
			if changed != test.changed {
				t.Errorf("%d targets changed, want %d", changed, test.changed)
			}
		})
	}
}

// A file that is damaged, or of a plan that this program makes otherwise, is worth nothing.
func TestWrongPlansAreForgotten(t *testing.T) {
	registry := oci.NewMemory()
	opts := options(t, write(t, t.TempDir(), nil), releaseSigner(t))
	mustRun(t, registry, opts)
	loaded, err := Load(t.Context(), opts.LoadOptions)
	if err != nil {
		t.Fatal(err)
	}
	file := plansFile(opts.CacheDir, loaded.Fleet.Name)
	good := readPlans(opts.CacheDir, loaded)
	drafts := make([]draft, len(loaded.Fleet.Clusters))
	wrong := good
	for i := range drafts { // all of them without any bundle
		drafts[i] = draft{sketch: target.Sketch{1}}
	}
	if err := wrong.write(opts.CacheDir, loaded.Fleet, drafts); err != nil {
		t.Fatal(err)
	}
	if result := mustRun(t, registry, opts); result.Changed() {
		t.Errorf("wrong plans: %v", actions(result))
	}
	for _, damage := range []string{"", "{", `{"Program":"another"}`, `{"Clusters":{"east":{"Choice":7}}}`} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if result := mustRun(t, registry, opts); result.Changed() {
			t.Errorf("%q: %v", damage, actions(result))
		}
	}
}
