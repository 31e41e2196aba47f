package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/drift"
	"pinnace.dev/pinnace/pkg/oci"
)

func TestSuspendIsDurableAndResumeCatchesUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		watch := &watcher{events: make(chan drift.Event)}
		withDrift := func(config *agent.Config) { config.Drift = watch }
		w.publish(target(1, w.bundle("db", "1"), w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			if err := a.Suspend(t.Context(), "web", "nope"); !errors.Is(err, agent.ErrNoBundle) || !strings.Contains(err.Error(), "db, web") {
				t.Errorf("suspend what isn't there: %v", err)
			}
			if err := a.Suspend(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			w.settle()
			w.settle()
			w.expect("web", "Waiting Suspended", "1")
			w.follow(a, target(2, w.bundle("db", "2"), w.bundle("web", "2")))
			w.expect("db", "Ready Ready", "2")
			w.expect("web", "Waiting Suspended", "1")
			watch.judge(drift.Verdict{Kind: drift.Modified})
			watch.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			w.settle()
			if got := watch.repaired(); len(got) > 0 {
				t.Errorf("repaired %v of a suspended bundle", got)
			}
		}, trusting, withDrift, every(time.Hour))
		w.deployer.took()
		w.run(func(a *agent.Agent) {
			w.settle()
			w.expect("web", "Waiting Suspended", "1")
			if diff := cmp.Diff([]string{"deploy db"}, w.deployer.took()); diff != "" {
				t.Errorf("after a restart (-want +got):\n%s", diff)
			}
			if err := a.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.settle()
			w.settle()
			w.expect("web", "Ready Ready", "2")
		}, trusting, withDrift, every(time.Hour))
	})
}

// A suspension of everything ends as a whole: half of it would be a guess.
func TestSuspendEverything(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("db", "1"), w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			if err := a.Suspend(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := a.Resume(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "everything is suspended") {
				t.Errorf("resume one of all: %v", err)
			}
			next := target(2)
			next.AllowPrune = true
			w.deployer.took()
			w.follow(a, next)
			if calls := w.deployer.took(); len(calls) > 0 {
				t.Errorf("calls %v, want none", calls)
			}
			if err := a.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.settle()
			calls := w.deployer.took()
			slices.Sort(calls)
			if diff := cmp.Diff([]string{"remove db", "remove web"}, calls); diff != "" {
				t.Errorf("after resume (-want +got):\n%s", diff)
			}
		}, trusting, every(time.Hour))
	})
}

func TestLookTriesAgainAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deployer.fail["web"] = errors.New("denied")
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			time.Sleep(time.Hour)
			w.deployer.set(func() { delete(w.deployer.fail, "web") })
			w.deployer.took()
			w.registry.taken()
			if err := a.Look(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if diff := cmp.Diff([]string{"deploy web"}, w.deployer.took()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if w.heads() != 1 {
				t.Error("the registry was not looked at")
			}
		}, trusting, every(24*time.Hour))
	})
}

func TestExplain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.bundle("web", "1")
		w.publish(target(1, first, w.bundle("db", "1")))
		w.run(func(a *agent.Agent) {
			second := w.bundle("web", "2")
			second.Windows, second.DependsOn = nightly, []string{"db"}
			w.follow(a, target(2, second, w.bundle("db", "1")))
			w.registry.set(errors.Join(errors.New("cut"), oci.ErrUnreachable))
			if err := a.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.settle()
			got, err := a.Explain(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			midnight := time.Now().UTC().Truncate(24 * time.Hour)
			if got.Held != agent.ReasonWaitingForWindow || got.Until == nil || !got.Until.Equal(midnight.Add(2*time.Hour)) {
				t.Errorf("held %s until %v, want %s until two", got.Held, got.Until, agent.ReasonWaitingForWindow)
			}
			if got.Wanted.Digest != second.Digest || got.Enforced.Digest != first.Digest || got.Runs.Generation != 1 || got.LastGood != first.Digest {
				t.Errorf("wanted %+v, enforced %+v, runs %+v, last good %s", got.Wanted, got.Enforced, got.Runs, got.LastGood)
			}
			if got.Target.Generation != 2 || !strings.Contains(got.Problem, "cut") {
				t.Errorf("target %+v, problem %q", got.Target, got.Problem)
			}
			want := []agent.ExplainedDependency{{Bundle: "db", State: "Ready", Reason: agent.ReasonReady, Satisfied: true}}
			if diff := cmp.Diff(want, got.DependsOn); diff != "" {
				t.Errorf("dependencies (-want +got):\n%s", diff)
			}
		}, trusting, every(time.Hour))
	})
}

// An agent that is not at work yet says so rather than nothing.
func TestCommandBeforeWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, closeState := w.agent()
	defer closeState()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.Explain(ctx, "web"); !errors.Is(err, agent.ErrNotAtWork) {
		t.Errorf("Explain: %v, want %v", err, agent.ErrNotAtWork)
	}
}
