package agent_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// announce is a target that has the first bundle, and announces the second in rollout "fleet".
func announce(generation int64, now, next v1alpha1.TargetBundle) v1alpha1.Target {
	out := target(generation, now)
	out.ExpiresAt = metav1.NewTime(time.Now().Add(48 * time.Hour))
	out.Rollouts = []v1alpha1.TargetRollout{{
		Name: "fleet", Plan: 1, Bundles: []v1alpha1.TargetBundle{next}, LateWave: 1, OnAbort: v1alpha1.AbortRevert,
		Deadline: metav1.Duration{Duration: 30 * time.Minute}, SeenWithin: metav1.Duration{Duration: 24 * time.Hour},
	}}
	return out
}

// openGate pushes a gate that lets everybody in, changed as the test wants it.
func (w *world) openGate(sequence int64, expires time.Duration, change func(*v1alpha1.RolloutGate)) {
	w.t.Helper()
	now := time.Now()
	gate := v1alpha1.RolloutGate{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate},
		Fleet:    fleetName, Name: "fleet", Plan: 1, Sequence: sequence, Phase: v1alpha1.RolloutProgressing, OpenBucket: v1alpha1.MaxBucket,
		IssuedAt: metav1.NewTime(now.Add(-time.Minute)), ExpiresAt: metav1.NewTime(now.Add(expires)),
	}
	if change != nil {
		change(&gate)
	}
	data, err := json.Marshal(gate)
	if err != nil {
		w.t.Fatal(err)
	}
	w.push(v1alpha1.RolloutRepository("fleet"), oci.Artifact{
		Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}},
	}, releaseKey().signer, v1alpha1.TagGate)
}

// newest is what the newest report says of the rollout and of bundle web.
func (r *recorder) newest(t *testing.T) (v1alpha1.ReportedRollout, v1alpha1.ReportedBundle) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var report v1alpha1.StatusReport
	if err := json.Unmarshal([]byte(r.signed[len(r.signed)-1]), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Rollouts) != 1 || len(report.Bundles) != 1 {
		t.Fatalf("reported are rollouts %+v and bundles %+v, want one of each", report.Rollouts, report.Bundles)
	}
	return report.Rollouts[0], report.Bundles[0]
}

var errDown = errors.Join(errors.New("cut"), oci.ErrUnreachable)

// later lets the bubble's clock run until a time of the day.
func later(hour, minute int) {
	midnight := time.Now().Truncate(24 * time.Hour)
	time.Sleep(time.Until(midnight.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)))
	synctest.Wait()
}

// A change needs both its gate and its windows, the bundle's, which are the fleet's where it has none, and the cluster's.
// Let in outside of them, it waits, says so, and needs no network any more; its deadline counts from when it starts.
func TestGateAndWindows(t *testing.T) {
	fromOne := []v1alpha1.Window{{Cron: "0 1 * * *", Duration: metav1.Duration{Duration: 3 * time.Hour}}}
	for _, test := range []struct {
		name            string
		bundle, cluster []v1alpha1.Window
	}{
		{"the bundle's, or the fleet's", nightly, nil},
		{"the cluster's", nil, nightly},
		{"both, which open together at two", fromOne, nightly},
		{"both, the other way round", nightly, fromOne},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				reports := &recorder{}
				first, second := w.bundle("web", "1"), w.bundle("web", "2")
				first.Windows, second.Windows = test.bundle, test.bundle
				w.publish(target(1, first))
				w.run(func(a *agent.Agent) {
					next := announce(2, first, second)
					next.Windows = test.cluster
					w.follow(a, next)
					if got, _ := reports.newest(t); got.State != v1alpha1.RolloutWaiting || !got.Fetched || got.Reason != "" {
						t.Errorf("before any gate: %+v", got)
					}
					w.openGate(1, 12*time.Hour, nil)
					a.Hint()
					time.Sleep(10 * time.Second)
					synctest.Wait()
					w.expect("web", "Waiting WaitingForWindow", "1")
					got, web := reports.newest(t)
					if got.State != v1alpha1.RolloutWaiting || got.Reason != v1alpha1.ReasonHeld || got.Gate != 1 {
						t.Errorf("let in, and outside the window: %+v", got)
					}
					if web.State != v1alpha1.StateWaiting || web.Reason != string(agent.ReasonWaitingForWindow) {
						t.Errorf("the bundle: %+v", web)
					}
					w.registry.set(errDown)
					later(1, 59)
					w.expect("web", "Waiting WaitingForWindow", "1")
					later(2, 1)
					w.expect("web", "Ready Ready", "2")
					later(2, 20) // a report that failed is tried again
					if got, _ := reports.newest(t); got.State != v1alpha1.RolloutDone || got.StartedAt.UTC().Hour() != 2 {
						t.Errorf("in the window: %+v", got)
					}
				}, trusting, every(10*time.Minute), func(config *agent.Config) { config.Signer = reports })
			})
		})
	}
}

// Who was let in and waits for a window has not started: a gate that expires meanwhile, is paused or is aborted keeps it
// from starting, also after a restart in the window.
func TestGateIsTakenBackBeforeTheWindow(t *testing.T) {
	for _, test := range []struct {
		name   string
		back   func(w *world)
		reason agent.Reason
		says   string
	}{
		{"expired, and the registry is away", func(w *world) { w.registry.set(errDown) }, agent.ReasonGateExpired, "expired"},
		{"paused", func(w *world) {
			w.openGate(2, 12*time.Hour, func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutPaused })
		}, "", "is paused"},
		{"aborted", func(w *world) {
			w.openGate(2, 12*time.Hour, func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutAborted })
		}, agent.ReasonRolloutAborted, "was aborted"},
	} {
		for _, restart := range []bool{false, true} {
			name := test.name
			if restart {
				name += ", and a restart"
			}
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					reports := &recorder{}
					wired := func(config *agent.Config) { config.Signer = reports }
					first, second := w.bundle("web", "1"), w.bundle("web", "2")
					first.Windows, second.Windows = nightly, nightly
					w.publish(target(1, first))
					check := func(*agent.Agent) {
						later(2, 30)
						w.expect("web", "Ready Ready", "1")
						got, _ := reports.newest(t)
						if got.State != v1alpha1.RolloutWaiting || got.Reason != string(test.reason) || !strings.Contains(got.Message, test.says) {
							t.Errorf("in the window: %+v", got)
						}
						// A gate that holds again lets it in again.
						if test.reason == agent.ReasonRolloutAborted {
							return
						}
						w.registry.set(nil)
						w.openGate(3, 12*time.Hour, nil)
						later(2, 45)
						w.expect("web", "Ready Ready", "2")
					}
					w.run(func(a *agent.Agent) {
						w.follow(a, announce(2, first, second))
						w.openGate(1, time.Hour, nil)
						a.Hint()
						time.Sleep(10 * time.Second)
						w.expect("web", "Waiting WaitingForWindow", "1")
						test.back(w)
						if restart {
							return
						}
						later(1, 30)
						check(a)
					}, trusting, every(10*time.Minute), wired)
					if restart {
						later(2, 10)
						w.run(check, trusting, every(10*time.Minute), wired)
					}
				})
			})
		}
	}
}
