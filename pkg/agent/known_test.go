package agent_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// How disk and cluster may stand after generation 5 and then 7 were accepted.
const (
	intact = "intact"
	older  = "put back from a copy" // of when generation 5 was the newest
	lost   = "lost"
)

// remembered is what the state folder holds.
func (w *world) remembered() agent.Known {
	w.t.Helper()
	state, err := agent.OpenState(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = state.Close() }()
	remembered, err := state.Remembered()
	if err != nil {
		w.t.Fatal(err)
	}
	return remembered.Known
}

// runs is the text that runs.
func (w *world) runs() string { return strings.Join(w.deployer.text("web"), " ") }

// aged is a world that accepted generations 5 and 7, and whose disk and cluster stand like that since.
func aged(t *testing.T, disk, cluster string) *world {
	t.Helper()
	w := newWorld(t)
	w.publish(target(5, w.bundle("web", "5")))
	w.sync()
	copied, before := t.TempDir(), w.holder.known
	if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	w.publish(target(7, w.bundle("web", "7")))
	w.sync()
	switch disk {
	case older:
		w.dir = copied
	case lost:
		w.dir = t.TempDir()
	}
	switch cluster {
	case older:
		w.holder.known = before
	case lost:
		w.holder.known = agent.Known{}
	}
	w.deployer.took()
	return w
}

// The highest generation that disk or cluster remember counts, and the other one learns it at once.
func TestMemoryOfGenerations(t *testing.T) {
	t.Parallel()
	states := []string{intact, older, lost}
	for _, disk := range states {
		for _, cluster := range states {
			t.Run("disk "+disk+", cluster "+cluster, func(t *testing.T) {
				t.Parallel()
				w := aged(t, disk, cluster)
				known := int64(0) // where both are lost, nobody can know
				switch {
				case disk == intact || cluster == intact:
					known = 7
				case disk == older || cluster == older:
					known = 5
				}
				for _, generation := range []int64{4, 6, 7, 8} {
					w.publish(target(generation, w.bundle("web", "another")))
					want, accepted := agent.Reason(""), max(known, generation)
					switch {
					case generation < known:
						want = agent.ReasonRollback
					case generation == 7 && known == 7:
						want = agent.ReasonEquivocation
					}
					result := w.sync()
					if got := agent.ReasonOf(result.Problem, ""); got != want {
						t.Errorf("generation %d: reason %q, want %q: %v", generation, got, want, result.Problem)
					}
					if runs := w.runs() == "another"; runs != (want == "") {
						t.Errorf("generation %d: what runs is %q", generation, w.runs())
					}
					known = accepted
					if onDisk := w.remembered(); onDisk.Generation != known || w.holder.known.Generation != known || onDisk.Digest != w.holder.known.Digest {
						t.Errorf("generation %d: the disk remembers %+v, the cluster %+v, want %d", generation, onDisk, w.holder.known, known)
					}
				}
			})
		}
	}
}

// A target is applied only once the cluster remembers it, however often it is tried.
func TestClusterRemembersBeforeAnythingIsApplied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.holder.refuses = &agent.Error{Stage: agent.StageHold, Subject: "Lease x", Reason: agent.ReasonUnreachable, Err: errors.New("away")}
	w.publish(target(1, w.bundle("web", "1")))
	for range 3 {
		result := w.sync()
		if got := agent.ReasonOf(result.Problem, ""); got != agent.ReasonUnreachable {
			t.Errorf("reason %q, want %q: %v", got, agent.ReasonUnreachable, result.Problem)
		}
		if calls := w.deployer.took(); len(calls) > 0 {
			t.Errorf("calls %v, want none", calls)
		}
	}
	w.holder.refuses = nil
	if result := w.sync(); result.Problem != nil || w.runs() != "1" || w.holder.known.Generation != 1 {
		t.Errorf("problem %v, runs %q, the cluster remembers %+v", result.Problem, w.runs(), w.holder.known)
	}
}

// What was in force when a disk was copied is old, also after a newer target was accepted that could not be fetched.
func TestOldDiskIsNotTakenUp(t *testing.T) {
	t.Parallel()
	w := aged(t, older, intact)
	next := w.bundle("web", "8")
	next.Digest = "sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff"
	w.publish(target(8, next))
	for _, unreachable := range []error{nil, oci.ErrUnreachable, oci.ErrUnreachable} {
		w.registry.set(unreachable)
		if result := w.sync(); result.Problem == nil {
			t.Error("no problem")
		}
		if calls := w.deployer.took(); len(calls) > 0 {
			t.Errorf("calls %v, want none", calls)
		}
	}
	if w.runs() != "7" || w.holder.known.Generation != 8 {
		t.Errorf("runs %q, the cluster remembers %+v", w.runs(), w.holder.known)
	}
}
