package agent_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/drift"
	"pinnace.dev/pinnace/pkg/oci"
)

// nightly opens every night at two, for an hour.
var nightly = []v1alpha1.Window{{Cron: "0 2 * * *", Duration: metav1.Duration{Duration: time.Hour}}}

// shown returns what the cluster shows of a bundle: state, reason, digest that runs.
func (w *world) shown(name string) v1alpha1.BundleDeployment {
	w.t.Helper()
	for _, one := range w.cluster.now() {
		if one.Name == name {
			return one
		}
	}
	return v1alpha1.BundleDeployment{}
}

func stateOf(one v1alpha1.BundleDeployment) string {
	for _, condition := range one.Status.Conditions {
		if condition.Type == v1alpha1.ConditionReady {
			return string(one.Status.State) + " " + condition.Reason
		}
	}
	return string(one.Status.State)
}

func (w *world) expect(name, state string, texts ...string) {
	w.t.Helper()
	if got := stateOf(w.shown(name)); got != state {
		w.t.Errorf("%s is %q, want %q", name, got, state)
	}
	if diff := cmp.Diff(texts, w.deployer.text(name)); diff != "" {
		w.t.Errorf("%s runs (-want +got):\n%s", name, diff)
	}
}

// follow publishes and lets the agent see it.
func (w *world) follow(a *agent.Agent, target v1alpha1.Target) {
	w.t.Helper()
	w.publish(target)
	a.Hint()
	w.settle()
	w.settle()
}

// A bubble's clock starts at midnight UTC.
func TestNewVersionWaitsForItsWindow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		watch := &watcher{events: make(chan drift.Event)}
		withDrift := func(config *agent.Config) { config.Drift = watch }
		first := w.bundle("web", "1")
		first.Windows = nightly
		w.publish(target(1, first))
		second := w.bundle("web", "2")
		second.Windows = nightly
		other := w.bundle("db", "1")
		w.run(func(a *agent.Agent) {
			w.expect("web", "Ready Ready", "1") // a first installation doesn't wait
			w.follow(a, target(2, second, other))
			w.expect("web", "Waiting WaitingForWindow", "1")
			w.expect("db", "Ready Ready", "1")
			if got := w.shown("web"); got.Spec.Digest != second.Digest || got.Status.AppliedDigest != first.Digest {
				t.Errorf("shown: wanted %s, runs %s; want %s, %s", got.Spec.Digest, got.Status.AppliedDigest, second.Digest, first.Digest)
			}
			// Its content is there already, and drift of what runs is still corrected.
			w.registry.set(errors.Join(errors.New("cut"), oci.ErrUnreachable))
			watch.judge(drift.Verdict{Kind: drift.Modified})
			watch.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			w.settle()
			if got := watch.repaired(); len(got) != 1 {
				t.Errorf("repaired %v, want web-0", got)
			}
			watch.judge(drift.Verdict{Kind: drift.None})
		}, trusting, withDrift, every(time.Hour))
		w.run(func(*agent.Agent) { // a restart enforces what ran
			w.expect("web", "Waiting WaitingForWindow", "1")
			time.Sleep(2*time.Hour - time.Since(time.Now().Truncate(24*time.Hour)) - time.Second)
			synctest.Wait()
			w.expect("web", "Waiting WaitingForWindow", "1")
			time.Sleep(3 * time.Second)
			synctest.Wait()
			w.expect("web", "Ready Ready", "2")
		}, trusting, withDrift, every(time.Hour))
	})
}

// A cluster's own windows and the bundle's must both be open; a removal waits as well.
func TestClustersWindowHoldsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		web, db, log := w.bundle("web", "1"), w.bundle("db", "1"), w.bundle("log", "1")
		w.publish(target(1, web, db, log))
		w.run(func(a *agent.Agent) {
			web2 := w.bundle("web", "2")
			next := target(2, web2, log)
			next.Windows = nightly
			w.follow(a, next)
			w.expect("web", "Waiting WaitingForWindow", "1")
			w.expect("db", "Waiting WaitingForWindow", "1")
			w.expect("log", "Ready Ready", "1")
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			w.expect("web", "Ready Ready", "2")
			if calls := w.deployer.took(); !slices.Contains(calls, "remove db") {
				t.Errorf("db is still there: %v", calls)
			}
		}, trusting, every(time.Hour))
	})
}

// Another window is no other version.
func TestWindowAloneIsNoChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		web := w.bundle("web", "1")
		w.publish(target(1, web))
		w.run(func(a *agent.Agent) {
			w.deployer.took()
			web.Windows = nightly
			w.follow(a, target(2, web))
			w.expect("web", "Ready Ready", "1")
			if calls := w.deployer.took(); len(calls) > 0 {
				t.Errorf("a new window applied the bundle again: %v", calls)
			}
		}, trusting, every(time.Hour))
	})
}

// What waits for a bundle that is held back waits, too, and is enforced as it is.
func TestDependentsWaitForWhatIsHeldBack(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		db, web := w.bundle("db", "1"), w.bundle("web", "1")
		web.DependsOn = []string{"db"}
		w.publish(target(1, db, web))
		w.run(func(a *agent.Agent) {
			db, web := w.bundle("db", "2"), w.bundle("web", "2")
			db.Windows, web.DependsOn = nightly, []string{"db"}
			w.follow(a, target(2, db, web))
			w.expect("db", "Waiting WaitingForWindow", "1")
			w.expect("web", "Waiting DependencyWaiting", "1")
			time.Sleep(2*time.Hour + time.Minute)
			synctest.Wait()
			w.expect("db", "Ready Ready", "2")
			w.expect("web", "Ready Ready", "2")
		}, trusting, every(time.Hour))
	})
}

func withRollback(bundle v1alpha1.TargetBundle) v1alpha1.TargetBundle {
	bundle.OnFailure = v1alpha1.OnFailureRollback
	bundle.Health.Timeout = metav1.Duration{Duration: time.Minute}
	return bundle
}

func TestFailedVersionIsRolledBackWithoutRegistry(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		good, bad := withRollback(w.bundle("web", "1")), withRollback(w.bundle("web", "2"))
		w.deployer.broken[bad.Digest] = true
		w.publish(target(1, good))
		w.run(func(a *agent.Agent) {
			w.follow(a, target(2, bad))
			w.expect("web", "Updating Reconciling", "2")
			w.publish(target(3, bad, w.bundle("other", "1"))) // collects what is not needed
			a.Hint()
			w.settle()
			w.registry.set(errors.Join(errors.New("cut"), oci.ErrUnreachable))
			time.Sleep(time.Minute)
			w.settle()
			w.expect("web", "Failed RolledBack", "1")
			w.deployer.took()
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			if calls := w.deployer.took(); len(calls) > 0 {
				t.Errorf("tried again: %v", calls)
			}
		}, trusting, every(time.Hour))

		w.run(func(a *agent.Agent) { // a restart knows
			w.expect("web", "Failed RolledBack", "1")
			w.deployer.took()
			w.registry.set(nil)
			again := bad
			again.Namespace = "elsewhere" // the target changed
			w.deployer.set(func() { w.deployer.broken[bad.Digest] = false })
			w.follow(a, target(4, again, w.bundle("other", "1")))
			w.expect("web", "Ready Ready", "2")
		}, trusting, every(time.Hour))
		if log := w.log.String(); strings.Count(log, "is rolled back") != 1 {
			t.Errorf("the log tells of %d rollbacks, want 1", strings.Count(log, "is rolled back"))
		}
	})
}

// Before a version is given up for being late, what is not ready is read anew, once: the watch may be late itself.
func TestLateWatchRollsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		good, heard, bad := withRollback(w.bundle("web", "1")), withRollback(w.bundle("web", "2")), withRollback(w.bundle("web", "3"))
		w.deployer.deaf[heard.Digest], w.deployer.broken[bad.Digest] = true, true
		w.publish(target(1, good))
		w.run(func(a *agent.Agent) {
			w.follow(a, target(2, heard))
			w.expect("web", "Updating Reconciling", "2")
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			w.expect("web", "Ready Ready", "2")
			w.follow(a, target(3, bad))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			w.expect("web", "Failed RolledBack", "2")
			w.deployer.set(func() {
				if w.deployer.checks > 3 { // one for each time that a version was late, and that was rolled back to
					t.Errorf("read anew %d times", w.deployer.checks)
				}
			})
		}, trusting, every(time.Hour))
	})
}

// What was ready once is not given up for a failure that comes later, nor is a first version.
func TestNoRollbackWithoutReason(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		first, second := withRollback(w.bundle("web", "1")), withRollback(w.bundle("web", "2"))
		w.deployer.broken[first.Digest] = true
		w.publish(target(1, first))
		watch := &watcher{events: make(chan drift.Event)}
		w.run(func(a *agent.Agent) {
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			w.expect("web", "Failed TimedOut", "1")
			w.follow(a, target(2, second))
			w.expect("web", "Ready Ready", "2")
			w.deployer.set(func() { w.deployer.broken[second.Digest] = true })
			watch.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Health: true}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			w.expect("web", "Failed TimedOut", "2")
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Drift = watch })
	})
}

// A version that cannot even be applied is given up after its timeout.
func TestUnappliableVersionIsRolledBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		good, bad := withRollback(w.bundle("web", "1")), withRollback(w.bundle("web", "2"))
		w.publish(target(1, good))
		w.run(func(a *agent.Agent) {
			w.deployer.set(func() { w.deployer.failDigest = map[string]error{bad.Digest: errors.New("denied")} })
			w.follow(a, target(2, bad))
			w.expect("web", "Failed ApplyFailed", "1")
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			w.expect("web", "Failed RolledBack", "1")
			if got := w.deployer.runs("web"); got != good.Digest {
				t.Errorf("runs %s, want %s", got, good.Digest)
			}
		}, trusting, every(time.Hour))
	})
}

// A refused version leaves alone what runs, whose drift is still corrected.
func TestRefusedVersionLeavesTheOldOneEnforced(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		watch := &watcher{events: make(chan drift.Event)}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			bad := w.bundle("web", "${MISSING}")
			bad.Variables = map[string]string{"X": "1"}
			w.follow(a, target(2, bad))
			w.expect("web", "Refused VariableMissing", "1")
			watch.judge(drift.Verdict{Kind: drift.Modified})
			watch.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			w.settle()
			if got := watch.repaired(); len(got) != 1 {
				t.Errorf("repaired %v, want web-0", got)
			}
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Drift = watch })
	})
}
