package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// A target whose bundle is missing is remembered, so that nothing older is taken; the one in force stays so, also after
// a restart, and what is damaged of it is fetched again.
func TestTargetOfMissingBundleLeavesTheOneBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	web := w.bundle("web", "1")
	before := w.publish(target(1, web))
	w.sync()
	missing := web
	missing.Digest = "sha256:" + strings.Repeat("a", 64)
	w.publish(target(2, missing))
	for _, offline := range []bool{false, true} {
		w.deployer.took()
		if offline {
			w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
		}
		result := w.sync()
		want := agent.ReasonNotFound
		if offline {
			want = agent.ReasonUnreachable
		}
		if got := agent.ReasonOf(result.Problem, ""); got != want {
			t.Errorf("offline %v: problem %q, want %q: %v", offline, got, want, result.Problem)
		}
		if diff := cmp.Diff([]string{"deploy web"}, w.deployer.took()); diff != "" {
			t.Errorf("offline %v: calls (-want +got):\n%s", offline, diff)
		}
		if result.Report.Target.Digest != before.Digest.String() {
			t.Errorf("offline %v: %s is in force, want %s", offline, result.Report.Target.Digest, before.Digest)
		}
		refused := meta.IsStatusConditionTrue(w.shown("web").Status.Conditions, v1alpha1.ConditionTargetRefused)
		if refused == offline {
			t.Errorf("offline %v: condition %s is %v", offline, v1alpha1.ConditionTargetRefused, refused)
		}
	}

	// The tag goes back to what is in force: nothing to refuse, and damage is mended.
	w.registry.set(nil)
	damage(t, w.dir, web.LayerDigest)
	w.push(v1alpha1.TargetRepository(clusterName), w.artifactOf(before), nil, v1alpha1.TagCurrent)
	if result := w.sync(); result.Problem != nil || result.Report.Bundles[0].State != v1alpha1.StateReady {
		t.Errorf("back on the target in force: %v, %v", result.Problem, states(result.Report))
	}
	w.publish(target(1, web, w.bundle("other", "1")))
	if result := w.sync(); agent.ReasonOf(result.Problem, "") != agent.ReasonRollback {
		t.Errorf("another target of an old generation: %v, want %s", result.Problem, agent.ReasonRollback)
	}
}

// A disk that is put back from a copy doesn't bring back what ran then.
func TestOldCopyOfTheDiskIsNotEnforced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(target(1, w.bundle("web", "1")))
	w.sync()
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "state"), os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	w.publish(target(2, w.bundle("web", "2")))
	w.sync()
	w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
	w.dir = filepath.Join(copied, "state")
	if err := os.Chmod(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.deployer.took()
	w.sync()
	if calls := w.deployer.took(); len(calls) > 0 {
		t.Errorf("calls %v, want none", calls)
	}
}
