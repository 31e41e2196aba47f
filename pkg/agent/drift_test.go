package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/agent/drift"
	"pinnace.dev/pinnace/pkg/oci"
)

// watcher is a drift source whose verdicts a test sets.
type watcher struct {
	events chan drift.Event

	mu      sync.Mutex
	verdict drift.Verdict
	repairs []string
	fail    error
}

func (s *watcher) repaired() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.repairs)
}

func (s *watcher) judge(verdict drift.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdict = verdict
}

func (s *watcher) Run(ctx context.Context)          { <-ctx.Done() }
func (s *watcher) Events() <-chan drift.Event       { return s.events }
func (s *watcher) Follow(map[string]drift.Followed) {}

func (s *watcher) Check(context.Context, apply.Bundle, *unstructured.Unstructured) (drift.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verdict, nil
}

func (s *watcher) Repair(_ context.Context, _ apply.Bundle, object *unstructured.Unstructured) apply.Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repairs = append(s.repairs, object.GetName())
	return apply.Change{Object: apply.RefOf(object), Action: apply.Configured, Err: s.fail}
}

func configMap(name string) apply.Ref {
	return apply.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "apps", Name: name}
}

func TestDriftIsRepairedWithoutRegistry(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{events: make(chan drift.Event), verdict: drift.Verdict{Kind: drift.Missing}}
		w.publish(target(1, w.bundle("web", "1", "2")))
		w.run(func(*agent.Agent) {
			w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
			w.deployer.took()
			before := time.Now()
			source.events <- drift.Event{Bundle: "web", Ref: configMap("web-1"), Drifted: true}
			synctest.Wait()
			if diff := cmp.Diff([]string{"web-1"}, source.repaired()); diff != "" || time.Since(before) > 0 {
				t.Errorf("repairs after %s (-want +got):\n%s", time.Since(before), diff)
			}
			if calls := w.deployer.took(); len(calls) > 0 {
				t.Errorf("the bundle was applied as a whole: %v", calls)
			}
		}, trusting, func(config *agent.Config) { config.Drift = source })
	})
}

func TestDriftIsReportedInModeWarn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{
			events: make(chan drift.Event), verdict: drift.Verdict{Kind: drift.Modified, Paths: []string{"/data/text"}, Manager: "kubectl-edit"},
		}
		web := w.bundle("web", "1")
		web.Drift.Mode = v1alpha1.DriftWarn
		w.publish(target(1, web))
		w.run(func(*agent.Agent) {
			source.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			w.settle()
			status := w.cluster.now()[0].Status
			if status.State != v1alpha1.StateDrifted || len(status.Problems) != 1 || !strings.Contains(status.Problems[0].Message, "kubectl-edit") {
				t.Errorf("status %s, %+v", status.State, status.Problems)
			}
			if len(source.repaired()) > 0 {
				t.Errorf("repaired: %v", source.repaired())
			}
			source.judge(drift.Verdict{Kind: drift.None})
			source.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			w.settle()
			if got := w.cluster.now()[0].Status.State; got != v1alpha1.StateReady {
				t.Errorf("once it was undone: %s", got)
			}
		}, trusting, func(config *agent.Config) { config.Drift = source })
	})
}

func TestContestedObjectIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{events: make(chan drift.Event), verdict: drift.Verdict{Kind: drift.Modified, Manager: "other"}}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			for range 20 {
				source.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
				time.Sleep(time.Second)
			}
			w.settle()
			if got := len(source.repaired()); got != drift.Repairs {
				t.Errorf("%d repairs, want %d", got, drift.Repairs)
			}
			if status := w.cluster.now()[0].Status; status.State != v1alpha1.StateContested {
				t.Errorf("state %s, want Contested", status.State)
			}
			time.Sleep(drift.Window + time.Minute)
			synctest.Wait()
			if got := len(source.repaired()); got != drift.Repairs+1 {
				t.Errorf("%d repairs after the pause, want one more", got)
			}
		}, trusting, func(config *agent.Config) { config.Drift = source })
	})
}

// A namespace that is gone takes all of its bundle with it; not every one that somebody touches is gone.
func TestNamespaceEvents(t *testing.T) {
	for _, test := range []struct {
		kind drift.Kind
		want []string
	}{{drift.Missing, []string{"deploy web"}}, {drift.None, nil}} {
		t.Run(string(test.kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				source := &watcher{events: make(chan drift.Event), verdict: drift.Verdict{Kind: test.kind}}
				w.publish(target(1, w.bundle("web", "1")))
				w.deployer.namespaces = true
				w.run(func(*agent.Agent) {
					w.deployer.took()
					source.events <- drift.Event{Bundle: "web", Ref: apply.Ref{APIVersion: "v1", Kind: "Namespace", Name: "apps"}, Drifted: true}
					w.settle()
					if diff := cmp.Diff(test.want, w.deployer.took()); diff != "" {
						t.Errorf("calls (-want +got):\n%s", diff)
					}
				}, trusting, func(config *agent.Config) { config.Drift = source })
			})
		})
	}
}

// What happens to an object after it was applied and before the rest of its bundle is must not be lost.
func TestDriftDuringAnApplyIsRepaired(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{events: make(chan drift.Event)}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			w.deployer.set(func() { w.deployer.slow = 10 * time.Second })
			w.publish(target(2, w.bundle("web", "2")))
			a.Hint()
			time.Sleep(5 * time.Second)
			source.judge(drift.Verdict{Kind: drift.Missing})
			source.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got := source.repaired(); len(got) == 0 {
				t.Error("an object that was deleted during the apply stays away")
			}
			source.judge(drift.Verdict{Kind: drift.None})
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Drift = source })
	})
}

// A release that did not change is not made again after a restart: its objects are compared.
func TestReleaseIsComparedAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{events: make(chan drift.Event), verdict: drift.Verdict{Kind: drift.None}}
		web := w.releaseOf("web")
		w.publish(target(1, web))
		withDrift := func(config *agent.Config) { config.Drift = source }
		w.run(func(*agent.Agent) {}, trusting, withDrift, every(time.Hour))
		source.judge(drift.Verdict{Kind: drift.Missing})
		w.deployer.applied = []*unstructured.Unstructured{object("web-0")}
		w.run(func(*agent.Agent) {
			if got := source.repaired(); len(got) == 0 {
				t.Error("what went missing while the agent was away stays away")
			}
			source.judge(drift.Verdict{Kind: drift.None})
		}, trusting, withDrift, every(time.Hour))
	})
}

func object(name string) *unstructured.Unstructured {
	out := &unstructured.Unstructured{}
	out.SetAPIVersion("v1")
	out.SetKind("ConfigMap")
	out.SetName(name)
	out.SetNamespace("apps")
	return out
}

func TestFailedRepairIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := &watcher{events: make(chan drift.Event), verdict: drift.Verdict{Kind: drift.Missing}, fail: errors.New("denied")}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			source.events <- drift.Event{Bundle: "web", Ref: configMap("web-0"), Drifted: true}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if got := len(source.repaired()); got < 3 || got > 5 {
				t.Errorf("%d attempts within twenty seconds", got)
			}
			if got := w.cluster.now()[0].Status; !strings.Contains(fmt.Sprint(got.Problems), "denied") {
				t.Errorf("status %+v", got)
			}
		}, trusting, func(config *agent.Config) { config.Drift = source })
	})
}
