package publish

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

func TestRollback(t *testing.T) {
	signer, registry := releaseSigner(t), &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)
	mustRun(t, registry, opts)
	first, err := seen(t, registry, signer, "east")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "broken")})
	mustRun(t, registry, opts)

	opts.Now = func() time.Time { return start.Add(time.Hour) }
	back := RollbackOptions{Options: opts, To: 1, Clusters: []string{"east"}}
	result, err := Rollback(t.Context(), registry, back)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]target.Action{"target/east/3": target.Changed, "target/west/2": target.Unchanged}
	if diff := cmp.Diff(want, actions(result)); diff != "" {
		t.Errorf("rolled back (-want +got):\n%s", diff)
	}
	got, err := seen(t, registry, signer, "east")
	if err != nil {
		t.Fatal(err)
	}
	if got.Generation != 3 || !cmp.Equal(got.Bundles, first.Bundles) {
		t.Errorf("east runs generation %d, and other bundles than in publication 1: %v", got.Generation, !cmp.Equal(got.Bundles, first.Bundles))
	}

	writes := registry.writes.Load()
	if result, err = Rollback(t.Context(), registry, back); err != nil || result.Changed() || registry.writes.Load() != writes {
		t.Errorf("once more: %v, %v, %d writes", actions(result), err, registry.writes.Load()-writes)
	}
	back.To = 17
	if _, err := Rollback(t.Context(), registry, back); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a publication that never was: got %v", err)
	}

	// The fleet repository has the last word again.
	if got := actions(mustRun(t, registry, opts)); got["target/east/4"] != target.Changed {
		t.Errorf("published again: got %v", got)
	}
}
