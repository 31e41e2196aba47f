package agent

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

var gateNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func testGate(change func(*v1alpha1.RolloutGate)) *v1alpha1.RolloutGate {
	gate := &v1alpha1.RolloutGate{
		Fleet: "acme", Name: "fleet", Plan: 3, Sequence: 7, Phase: v1alpha1.RolloutProgressing, OpenWave: 1, OpenBucket: 5000,
		IssuedAt: metav1.NewTime(gateNow.Add(-time.Minute)), ExpiresAt: metav1.NewTime(gateNow.Add(time.Hour)),
	}
	if change != nil {
		change(gate)
	}
	return gate
}

func TestAcceptGate(t *testing.T) {
	known := &gateMemory{Gate: testGate(nil), Digest: "sha256:known"}
	for _, test := range []struct {
		name   string
		known  *gateMemory
		digest string
		change func(*v1alpha1.RolloutGate)
		want   Reason
	}{
		{name: "the first", known: &gateMemory{}},
		{name: "a newer", known: known, change: func(g *v1alpha1.RolloutGate) { g.Sequence = 8 }},
		{name: "the same", known: known, digest: "sha256:known"},
		{name: "replayed", known: known, change: func(g *v1alpha1.RolloutGate) { g.Sequence = 6 }, want: ReasonRollback},
		{name: "the same sequence, other content", known: known, want: ReasonEquivocation},
		{name: "of another fleet", known: known, change: func(g *v1alpha1.RolloutGate) { g.Sequence, g.Fleet = 8, "other" }, want: ReasonWrongFleet},
		{name: "of another rollout", known: known, change: func(g *v1alpha1.RolloutGate) { g.Sequence, g.Name = 8, "source/x" }, want: ReasonGateRefused},
		{name: "from the future", known: known, change: func(g *v1alpha1.RolloutGate) { g.Sequence, g.IssuedAt = 8, metav1.NewTime(gateNow.Add(time.Hour)) }, want: ReasonClockSkew},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Reason("")
			if refusal := acceptGate(testGate(test.change), test.digest, "fleet", "acme", test.known, gateNow); refusal != nil {
				got = refusal.Reason
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestGateTurns(t *testing.T) {
	rollout := v1alpha1.TargetRollout{
		Name: "fleet", Plan: 3, Wave: 1, Bucket: 4000, LateWave: 2, Deadline: metav1.Duration{Duration: 30 * time.Minute}, OnAbort: v1alpha1.AbortRevert,
	}
	running := gateMemory{Plan: 3, Gate: testGate(nil), State: v1alpha1.RolloutRunning, StartedAt: gateNow.Add(-time.Minute)}
	with := func(m gateMemory, change func(*gateMemory)) gateMemory {
		change(&m)
		return m
	}
	waiting := gateMemory{Plan: 3, Gate: testGate(nil), State: v1alpha1.RolloutWaiting}
	gate := func(change func(*v1alpha1.RolloutGate)) func(*gateMemory) {
		return func(m *gateMemory) { m.Gate = testGate(change) }
	}
	aborted := gate(func(g *v1alpha1.RolloutGate) {
		g.Phase, g.ExpiresAt = v1alpha1.RolloutAborted, metav1.NewTime(gateNow.Add(-time.Hour))
	})
	done, failed := with(running, func(m *gateMemory) { m.State = v1alpha1.RolloutDone }), with(running, func(m *gateMemory) { m.State = v1alpha1.RolloutFailed })
	for _, test := range []struct {
		name   string
		memory gateMemory
		far    progress
		change func(*v1alpha1.TargetRollout)
		want   v1alpha1.RolloutState
		reason Reason
	}{
		{name: "no gate", memory: gateMemory{}, want: v1alpha1.RolloutWaiting},
		{name: "let in", memory: waiting, want: v1alpha1.RolloutRunning},
		{name: "another plan's gate", memory: with(waiting, gate(func(g *v1alpha1.RolloutGate) { g.Plan = 2 })), want: v1alpha1.RolloutWaiting},
		{name: "another wave", memory: waiting, change: func(r *v1alpha1.TargetRollout) { r.Wave = 2 }, want: v1alpha1.RolloutWaiting},
		{name: "another bucket", memory: waiting, change: func(r *v1alpha1.TargetRollout) { r.Bucket = 5000 }, want: v1alpha1.RolloutWaiting},
		{name: "late", memory: with(waiting, func(m *gateMemory) { m.Late = true }), want: v1alpha1.RolloutWaiting},
		{name: "late, all open", memory: with(waiting, func(m *gateMemory) { m.Late, m.Gate = true, testGate(func(g *v1alpha1.RolloutGate) { g.OpenWave = 3 }) }), want: v1alpha1.RolloutRunning},
		{name: "expired", memory: with(waiting, gate(func(g *v1alpha1.RolloutGate) { g.ExpiresAt = metav1.NewTime(gateNow) })), want: v1alpha1.RolloutWaiting, reason: ReasonGateExpired},
		{name: "expired, started already", memory: with(running, gate(func(g *v1alpha1.RolloutGate) { g.ExpiresAt = metav1.NewTime(gateNow) })), want: v1alpha1.RolloutRunning},
		{name: "completed long ago", memory: with(waiting, gate(func(g *v1alpha1.RolloutGate) {
			g.Phase, g.OpenWave, g.ExpiresAt = v1alpha1.RolloutCompleted, 0, metav1.NewTime(gateNow.Add(-time.Hour))
		})), want: v1alpha1.RolloutRunning},
		{name: "paused", memory: with(waiting, gate(func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutPaused })), want: v1alpha1.RolloutWaiting},
		{name: "aborted, not started", memory: with(waiting, aborted), want: v1alpha1.RolloutWaiting, reason: ReasonRolloutAborted},
		{name: "aborted, running", memory: with(running, aborted), want: v1alpha1.RolloutReverted, reason: ReasonRolloutAborted},
		{name: "aborted, done", memory: with(done, aborted), far: progress{done: true}, want: v1alpha1.RolloutReverted, reason: ReasonRolloutAborted},
		{name: "aborted, done is kept", memory: with(done, aborted), far: progress{done: true}, change: func(r *v1alpha1.TargetRollout) { r.OnAbort = v1alpha1.AbortRevertUnfinished }, want: v1alpha1.RolloutDone},
		{name: "aborted, unfinished goes back", memory: with(failed, aborted), change: func(r *v1alpha1.TargetRollout) { r.OnAbort = v1alpha1.AbortRevertUnfinished }, want: v1alpha1.RolloutReverted, reason: ReasonRolloutAborted},
		{name: "aborted, all is kept", memory: with(running, aborted), change: func(r *v1alpha1.TargetRollout) { r.OnAbort = v1alpha1.AbortKeep }, want: v1alpha1.RolloutRunning},
		{name: "ready", memory: running, far: progress{done: true}, want: v1alpha1.RolloutDone},
		{name: "failed", memory: running, far: progress{failed: "it broke"}, want: v1alpha1.RolloutFailed, reason: ReasonRolloutFailed},
		{name: "failed, and recovers", memory: failed, far: progress{done: true}, want: v1alpha1.RolloutDone},
		{name: "past its deadline", memory: with(running, func(m *gateMemory) { m.StartedAt = gateNow.Add(-time.Hour) }), want: v1alpha1.RolloutFailed, reason: ReasonTimedOut},
		{name: "waits for a window", memory: with(running, func(m *gateMemory) { m.StartedAt = gateNow.Add(-time.Hour) }), far: progress{held: true}, want: v1alpha1.RolloutRunning, reason: ReasonWaitingForWindow},
		{name: "reverted is not tried again", memory: with(running, func(m *gateMemory) { m.State = v1alpha1.RolloutReverted }), want: v1alpha1.RolloutReverted},
		{name: "people say: again", memory: with(running, func(m *gateMemory) {
			m.State, m.Gate = v1alpha1.RolloutReverted, testGate(func(g *v1alpha1.RolloutGate) { g.Attempt = 9 })
		}), want: v1alpha1.RolloutRunning},
		{name: "something else is announced", memory: failed, change: func(r *v1alpha1.TargetRollout) { r.Plan = 4 }, want: v1alpha1.RolloutWaiting},
	} {
		t.Run(test.name, func(t *testing.T) {
			rollout := rollout
			if test.change != nil {
				test.change(&rollout)
			}
			got := test.memory.turn(&rollout, test.far, gateNow)
			if got.State != test.want || got.Reason != test.reason {
				t.Errorf("got %s (%s: %s), want %s (%s)", got.State, got.Reason, got.Message, test.want, test.reason)
			}
		})
	}
}

// Who was away for longer than a rollout allows while its place was opened comes last; who was there does not.
func TestLateAgents(t *testing.T) {
	rollout := v1alpha1.TargetRollout{
		Name: "fleet", Plan: 3, Wave: 1, Bucket: 4000, LateWave: 2, SeenWithin: metav1.Duration{Duration: time.Hour},
	}
	for _, test := range []struct {
		name    string
		contact time.Time
		change  func(*v1alpha1.RolloutGate)
		want    bool
	}{
		{"there all the time", gateNow.Add(-time.Minute), nil, false},
		{"away", gateNow.Add(-2 * time.Hour), nil, true},
		{"never there before", time.Time{}, nil, false},
		{"away, and its place is not open", gateNow.Add(-2 * time.Hour), func(g *v1alpha1.RolloutGate) { g.OpenBucket = 0 }, false},
		{"away until everybody has it", gateNow.Add(-2 * time.Hour), func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutCompleted }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := New(Config{Fleet: "acme", Cluster: "ship-7", State: NewMemoryState()})
			if err := a.openGates(); err != nil {
				t.Fatal(err)
			}
			news := gateNews{name: "fleet", plan: 3, gate: testGate(test.change), digest: "sha256:1"}
			if refusal := a.acceptGate(news, &rollout, test.contact, gateNow); refusal != nil {
				t.Fatal(refusal)
			}
			if got := a.gates.file.Rollouts["fleet"].Late; got != test.want {
				t.Errorf("late: %v, want %v", got, test.want)
			}
			kept, err := a.cfg.State.gates()
			if err != nil || kept.Rollouts["fleet"].Digest != "sha256:1" {
				t.Errorf("the gate is not remembered: %+v, %v", kept, err)
			}
		})
	}
}
