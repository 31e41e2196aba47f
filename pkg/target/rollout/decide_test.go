package rollout_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// planOf is a plan over n clusters c0 … with the strategy; the first are its canaries.
func planOf(n, canaries int, strategy v1alpha1.Rollout) (v1alpha1.RolloutPlan, []rollout.Member) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	strategy.Canaries = names[:canaries]
	strategy = rollout.Complete(strategy)
	steps, places := rollout.Ladder(strategy, "seed", names, func(int, string) bool { return false })
	members := make([]rollout.Member, n)
	for i, name := range names {
		members[i] = rollout.Member{Name: name, Place: places[name], Seen: now, Gate: 100}
	}
	return v1alpha1.RolloutPlan{Name: "fleet", Plan: 2, Strategy: strategy, Steps: steps, Clusters: n}, members
}

func TestLadder(t *testing.T) {
	wave := func(name string, percent int) v1alpha1.RolloutWave {
		return v1alpha1.RolloutWave{Name: name, Percent: percent}
	}
	for _, test := range []struct {
		name     string
		clusters int
		strategy v1alpha1.Rollout
		want     string
	}{
		{"nothing said", 5, v1alpha1.Rollout{}, "rest:5 late:0"},
		{"a canary", 5, v1alpha1.Rollout{Canaries: []string{"c3", "not here"}}, "canaries:1 rest:4 late:0"},
		{"percentages of few", 12, v1alpha1.Rollout{Canaries: []string{"c0"}, Waves: []v1alpha1.RolloutWave{wave("", 10), wave("", 50)}}, "canaries:1 10%:2 50%:4 rest:5 late:0"},
		{"of all", 10, v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{wave("a", 30), wave("b", 100)}}, "a:3 b:7 late:0"},
		{"a group takes some", 12, v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{ClusterGroup: "g"}, wave("half", 50)}}, "g:2 half:5 rest:5 late:0"},
		{"canaries only", 1, v1alpha1.Rollout{Canaries: []string{"c0"}}, "canaries:1 late:0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			names := make([]string, test.clusters)
			for i := range names {
				names[i] = fmt.Sprintf("c%d", i)
			}
			steps, places := rollout.Ladder(test.strategy, "seed", names, func(_ int, cluster string) bool { return len(cluster) == 3 })
			var got []string
			for i, step := range steps {
				got = append(got, fmt.Sprintf("%s:%d", step.Name, step.Clusters))
				inside := 0
				for _, name := range names {
					if rollout.StepOf(&v1alpha1.RolloutPlan{Steps: steps}, places[name]) == i {
						inside++
					}
				}
				if inside != step.Clusters {
					t.Errorf("step %s: %d places, says %d", step.Name, inside, step.Clusters)
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	all := func(state v1alpha1.RolloutState) func([]rollout.Member) {
		return func(members []rollout.Member) {
			for i := range members {
				members[i].State, members[i].StartedAt = state, now.Add(-time.Minute)
			}
		}
	}
	first := func(n int, state v1alpha1.RolloutState) func([]rollout.Member) {
		return func(members []rollout.Member) { all(state)(members[:n]) }
	}
	atRest := v1alpha1.RolloutGate{Plan: 2, Phase: v1alpha1.RolloutProgressing, Step: 1, OpenWave: 1, OpenBucket: v1alpha1.MaxBucket, StepSince: metav1.NewTime(now), OpenedAt: metav1.NewTime(now)}
	with := func(gate v1alpha1.RolloutGate, change func(*v1alpha1.RolloutGate)) *v1alpha1.RolloutGate {
		change(&gate)
		return &gate
	}
	atCanary := with(atRest, func(g *v1alpha1.RolloutGate) { g.Step, g.OpenWave = 0, 0 })
	everybody := intstr.FromString("100%")
	for _, test := range []struct {
		name     string
		strategy v1alpha1.Rollout
		gate     *v1alpha1.RolloutGate
		members  func([]rollout.Member)
		approved map[string]bool
		want     v1alpha1.RolloutPhase
		step     int
		reason   string
	}{
		{name: "begins", want: v1alpha1.RolloutProgressing},
		{name: "the canary runs", gate: atCanary, members: first(1, v1alpha1.RolloutRunning), want: v1alpha1.RolloutProgressing},
		{name: "the canary failed", gate: atCanary, members: first(1, v1alpha1.RolloutFailed), want: v1alpha1.RolloutAborted, reason: rollout.ReasonCanaryFailed},
		{name: "the canary rolled back by itself", gate: atCanary, members: first(1, v1alpha1.RolloutReverted), want: v1alpha1.RolloutAborted, reason: rollout.ReasonCanaryFailed},
		{name: "failure pauses", strategy: v1alpha1.Rollout{OnFailure: v1alpha1.RolloutPause}, gate: atCanary, members: first(1, v1alpha1.RolloutFailed), want: v1alpha1.RolloutPaused, reason: rollout.ReasonCanaryFailed},
		{name: "it failed before people resumed", gate: with(*atCanary, func(g *v1alpha1.RolloutGate) { g.Attempt = 200 }), members: first(1, v1alpha1.RolloutFailed), want: v1alpha1.RolloutProgressing},
		{name: "the canary is past its deadline, and silent", gate: atCanary, members: func(m []rollout.Member) {
			m[0].State, m[0].StartedAt, m[0].Seen = v1alpha1.RolloutRunning, now.Add(-3*time.Hour), now.Add(-3*time.Hour)
		}, want: v1alpha1.RolloutAborted, reason: rollout.ReasonCanaryFailed},
		{name: "no canary is heard from", gate: with(*atCanary, func(g *v1alpha1.RolloutGate) { g.StepSince = metav1.NewTime(now.Add(-time.Hour)) }), members: func(m []rollout.Member) { m[0].Seen = time.Time{} }, want: v1alpha1.RolloutAborted, reason: rollout.ReasonNoCanary},
		{name: "no canary is heard from yet", gate: atCanary, members: func(m []rollout.Member) { m[0].Seen = time.Time{} }, want: v1alpha1.RolloutProgressing},
		{name: "the canary is done", gate: atCanary, members: first(1, v1alpha1.RolloutDone), want: v1alpha1.RolloutProgressing, step: 1},
		{name: "it bakes", strategy: v1alpha1.Rollout{Bake: metav1.Duration{Duration: time.Hour}}, gate: atCanary, members: first(1, v1alpha1.RolloutDone), want: v1alpha1.RolloutBaking},
		{name: "it has baked", strategy: v1alpha1.Rollout{Bake: metav1.Duration{Duration: time.Hour}}, gate: with(*atCanary, func(g *v1alpha1.RolloutGate) { g.BakingSince = metav1.NewTime(now.Add(-time.Hour)) }), members: first(1, v1alpha1.RolloutDone), want: v1alpha1.RolloutProgressing, step: 1},
		{name: "it is not approved", strategy: v1alpha1.Rollout{Approval: &v1alpha1.RolloutApproval{}}, gate: atCanary, members: first(1, v1alpha1.RolloutDone), want: v1alpha1.RolloutApproving},
		{name: "it is approved", strategy: v1alpha1.Rollout{Approval: &v1alpha1.RolloutApproval{}}, gate: atCanary, members: first(1, v1alpha1.RolloutDone), approved: map[string]bool{"rest": true}, want: v1alpha1.RolloutProgressing, step: 1},
		{name: "paused", gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutPaused }), members: all(v1alpha1.RolloutDone), want: v1alpha1.RolloutPaused, step: 1},
		{name: "aborted", gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.Phase = v1alpha1.RolloutAborted }), members: all(v1alpha1.RolloutDone), want: v1alpha1.RolloutAborted, step: 1},
		{name: "another plan's gate", gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.Plan, g.Phase = 1, v1alpha1.RolloutCompleted }), want: v1alpha1.RolloutProgressing},
		{name: "all are done", gate: &atRest, members: all(v1alpha1.RolloutDone), want: v1alpha1.RolloutCompleted, step: 2},
		{name: "the rest is absent", gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			for i := range m[5:] {
				m[5+i].Seen, m[5+i].State = now.Add(-24*time.Hour), ""
			}
		}, want: v1alpha1.RolloutCompleted, step: 2},
		{name: "one of the rest failed", gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			m[7].State = v1alpha1.RolloutFailed
		}, want: v1alpha1.RolloutAborted, step: 1, reason: rollout.ReasonMinSuccess},
		{name: "one of the rest may fail", strategy: v1alpha1.Rollout{MinSuccess: amount("80%")}, gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			m[7].State = v1alpha1.RolloutFailed
		}, want: v1alpha1.RolloutCompleted, step: 2},
		{name: "too many failed, whatever the wave", strategy: v1alpha1.Rollout{MinSuccess: amount("1%"), MaxFailure: &v1alpha1.RolloutFailure{Limit: intstr.FromInt32(1)}}, gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			m[7].State, m[8].State = v1alpha1.RolloutFailed, v1alpha1.RolloutFailed
		}, want: v1alpha1.RolloutAborted, step: 1, reason: rollout.ReasonMaxFailure},
		{name: "too small a sample", strategy: v1alpha1.Rollout{MinSuccess: amount("1%"), MaxFailure: &v1alpha1.RolloutFailure{Limit: *amount("1%"), MinSample: 20}}, gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			m[7].State, m[8].State = v1alpha1.RolloutFailed, v1alpha1.RolloutFailed
		}, want: v1alpha1.RolloutCompleted, step: 2},
		{
			name: "what failed uses up what may be unavailable", strategy: v1alpha1.Rollout{MaxUnavailable: amount("10%"), MinSuccess: amount("50%")},
			gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.OpenBucket = 1200 }), members: func(m []rollout.Member) {
				first(1, v1alpha1.RolloutDone)(m)
				for i := range m {
					if m[i].Place.Wave == 1 && m[i].Place.Bucket < 1200 {
						m[i].State = v1alpha1.RolloutFailed
					}
				}
			}, want: v1alpha1.RolloutAborted, step: 1, reason: rollout.ReasonUnavailable,
		},
		{name: "it reports, and does not start", gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.OpenedAt = metav1.NewTime(now.Add(-2 * time.Hour)) }), members: first(1, v1alpha1.RolloutDone), want: v1alpha1.RolloutAborted, step: 1, reason: rollout.ReasonMinSuccess},
		{name: "it waits for its window", gate: with(atRest, func(g *v1alpha1.RolloutGate) { g.OpenedAt = metav1.NewTime(now.Add(-2 * time.Hour)) }), members: func(m []rollout.Member) {
			first(1, v1alpha1.RolloutDone)(m)
			for i := range m {
				m[i].Held = true
			}
		}, want: v1alpha1.RolloutProgressing, step: 1},
		{name: "one is late", gate: &atRest, members: func(m []rollout.Member) {
			all(v1alpha1.RolloutDone)(m)
			m[4].State, m[4].Late = v1alpha1.RolloutWaiting, true
		}, want: v1alpha1.RolloutProgressing, step: 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.strategy.MaxUnavailable == nil {
				test.strategy.MaxUnavailable = &everybody
			}
			plan, members := planOf(10, 1, test.strategy)
			if test.members != nil {
				test.members(members)
			}
			in := rollout.Input{Plan: plan, Gate: test.gate, Members: members, Approved: test.approved, Now: now}
			got, changed := rollout.Decide(in)
			if got.Phase != test.want || got.Step != test.step || test.reason != "" && got.Reason != test.reason {
				t.Errorf("got %s in step %d (%s: %s), want %s in step %d (%s)", got.Phase, got.Step, got.Reason, got.Message, test.want, test.step, test.reason)
			}
			in.Gate = &got
			if again, changedAgain := rollout.Decide(in); changedAgain {
				t.Errorf("the same again says something new: %+v after %+v (which was new: %v)", again, got, changed)
			}
		})
	}
}

// A gate opens no wider than may be unavailable, also one by one.
func TestWidening(t *testing.T) {
	one := intstr.FromInt32(1)
	plan, members := planOf(7, 0, v1alpha1.Rollout{MaxUnavailable: &one})
	var gate *v1alpha1.RolloutGate
	for done := range members {
		next, _ := rollout.Decide(rollout.Input{Plan: plan, Gate: gate, Members: members, Now: now})
		open := 0
		for i := range members {
			if next.Open(members[i].Place.Wave, members[i].Place.Bucket) {
				open++
				members[i].State, members[i].StartedAt = v1alpha1.RolloutDone, now
			}
		}
		if open != done+1 {
			t.Fatalf("with %d done, %d are let in", done, open)
		}
		gate = &next
	}
}

func TestCheckStrategy(t *testing.T) {
	known := rollout.Inventory{
		Cluster: func(name string) bool { return name == "a" }, Group: func(name string) bool { return name == "g" },
	}
	for _, test := range []struct {
		name     string
		strategy v1alpha1.Rollout
		want     string // place of the finding; empty for none
	}{
		{"all said", v1alpha1.Rollout{Canaries: []string{"a"}, Waves: []v1alpha1.RolloutWave{{ClusterGroup: "g"}, {Percent: 10}, {Percent: 100}}, MaxUnavailable: amount("5%"), MinSuccess: amount("95%")}, ""},
		{"unknown canary", v1alpha1.Rollout{Canaries: []string{"b"}}, "canaries[0]"},
		{"canary twice", v1alpha1.Rollout{Canaries: []string{"a", "a"}}, "canaries[1]"},
		{"a wave of nobody", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Name: "x"}}}, "waves[0]"},
		{"a wave of two kinds", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Percent: 10, ClusterGroup: "g"}}}, "waves[0]"},
		{"unknown group", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{ClusterGroup: "h"}}}, "waves[0].clusterGroup"},
		{"percentages fall", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Percent: 50}, {Percent: 10}}}, "waves[1].percent"},
		{"a label after percentages", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Percent: 50}, {ClusterGroup: "g"}}}, "waves[1]"},
		{"more than all", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Percent: 101}}}, "waves[0].percent"},
		{"two waves of a name", v1alpha1.Rollout{Waves: []v1alpha1.RolloutWave{{Name: "x", Percent: 5}, {Name: "x", Percent: 10}}}, "waves[1].name"},
		{"no amount", v1alpha1.Rollout{MaxUnavailable: amount("many")}, "maxUnavailable"},
		{"a number of successes", v1alpha1.Rollout{MinSuccess: &intstr.IntOrString{IntVal: 5}}, "minSuccess"},
		{"a negative sample", v1alpha1.Rollout{MaxFailure: &v1alpha1.RolloutFailure{Limit: *amount("5%"), MinSample: -1}}, "maxFailure.minSample"},
		{"a negative bake", v1alpha1.Rollout{Bake: metav1.Duration{Duration: -1}}, "bake"},
		{"approval of nothing", v1alpha1.Rollout{Approval: &v1alpha1.RolloutApproval{Before: []string{"moon"}, Signers: v1alpha1.Signers{Keys: make([]v1alpha1.PublicKey, 1)}}}, "approval.before[0]"},
		{"approval by too few", v1alpha1.Rollout{Approval: &v1alpha1.RolloutApproval{Signers: v1alpha1.Signers{Threshold: 2, Keys: make([]v1alpha1.PublicKey, 1)}}}, "approval.signers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			findings := rollout.Check(test.strategy, known)
			got := ""
			if len(findings) > 0 {
				got = findings[0].Path
			}
			if got != test.want || len(findings) > 1 {
				t.Errorf("got %+v, want one at %q", findings, test.want)
			}
		})
	}
}
