package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// unitsOf makes units from lines: name, how it stands, and what it depends on. How it stands is one of new, busy,
// updating, ready, failed, leaving.
func unitsOf(lines ...string) map[string]*unit {
	units := map[string]*unit{}
	for _, line := range lines {
		fields := strings.Fields(line)
		want := bundleNamed(fields[0], fields[2:]...)
		one := &unit{name: fields[0], want: &want, wantPrint: fingerprint(&want)}
		one.offer(&want, 0)
		switch fields[1] {
		case "new":
			one.todo = true
		case "busy":
			one.todo, one.busy = true, true
		case "updating":
			one.deployed, one.state = true, v1alpha1.StateUpdating
		case "ready":
			one.deployed, one.healthy, one.state = true, true, v1alpha1.StateReady
		case "drifted":
			one.deployed, one.healthy, one.state = true, true, v1alpha1.StateDrifted
		case "failed":
			one.todo, one.attempts, one.state, one.retryAt = true, 1, v1alpha1.StateFailed, noon.Add(time.Minute)
		case "leaving":
			one.offer(nil, 0)
			one.want, one.todo = nil, true
			one.record(&Record{Bundle: want, Complete: true})
		}
		units[one.name] = one
	}
	return units
}

// chosen aims and chooses, as the loop does.
func chosen(units map[string]*unit, limit int) []string {
	aim(circumstances{now: noon, units: units})
	var names []string
	for _, one := range choose(units, noon, limit) {
		names = append(names, one.name)
	}
	return names
}

func TestChoose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		units []string
		limit int
		want  []string
	}{
		{"all that depend on nothing", []string{"a new", "b new", "c new"}, 8, []string{"a", "b", "c"}},
		{"no more than the limit", []string{"a busy", "b new", "c new"}, 2, []string{"b"}},
		{"dependency not applied", []string{"a new", "b new a"}, 8, []string{"a"}},
		{"dependency not ready", []string{"a updating", "b new a"}, 8, nil},
		{"dependency ready", []string{"a ready", "b new a"}, 8, []string{"b"}},
		{"dependency ready, but drifted", []string{"a drifted", "b new a"}, 8, []string{"b"}},
		{"dependency failed", []string{"a failed", "b new a", "c new"}, 8, []string{"c"}},
		{"retry later", []string{"a failed"}, 8, nil},
		{"removal after all were tried", []string{"a new", "z leaving"}, 8, []string{"a"}},
		{"removal once all were tried", []string{"a updating", "z leaving"}, 8, []string{"z"}},
		{"removal is not held up by what cannot be tried", []string{"a failed", "b new a", "z leaving"}, 8, []string{"z"}},
		{"removal in the reverse order", []string{"a leaving", "b leaving a"}, 8, []string{"b"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := chosen(unitsOf(test.units...), test.limit)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	units := unitsOf("a failed", "b new a", "c new b", "d updating", "e new d")
	chosen(units, 8)
	got := map[string]string{}
	for _, name := range []string{"b", "c", "e"} {
		got[name] = string(units[name].state) + " " + string(units[name].reason) + " " + units[name].message
	}
	want := map[string]string{
		"b": "Waiting DependencyFailed waits for a, which failed",
		"c": "Waiting DependencyFailed waits for b, which failed",
		"e": "Waiting DependencyWaiting waits for d to become ready",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("waiting (-want +got):\n%s", diff)
	}
}

// What ran before a restart is enforced at once; what is new waits for its dependencies.
func TestRestartDoesNotWait(t *testing.T) {
	t.Parallel()
	units := unitsOf("a new", "b new a", "c new a")
	same, changed := *units["b"].want, *units["c"].want
	changed.Digest = "sha256:" + strings.Repeat("c", 64)
	units["b"].fresh, units["c"].fresh = true, true
	units["b"].record(&Record{Bundle: same, Complete: true})
	units["c"].record(&Record{Bundle: changed, Complete: true})
	got := chosen(units, 8)
	if units["c"].want.Digest != changed.Digest {
		t.Error("what ran before is not what is enforced while the new version waits")
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	units := unitsOf("same ready", "changed ready", "gone ready", "refused ready", "never new")
	units["refused"].state = v1alpha1.StateRefused
	for _, name := range []string{"same", "changed", "gone", "refused"} {
		units[name].record(&Record{Bundle: *units[name].want, Complete: true})
	}
	units["refused"].todo, units["refused"].refusal = true, &holdback{until: noon.Add(time.Minute)}
	changed := bundleNamed("changed")
	changed.Namespace = "other"
	target := &v1alpha1.Target{Generation: 9, Bundles: []v1alpha1.TargetBundle{changed, bundleNamed("new"), bundleNamed("refused"), bundleNamed("same")}}
	plan(units, target)
	aim(circumstances{now: noon, units: units})
	got := map[string]string{}
	for name, one := range units {
		text := "rest"
		switch {
		case one.todo && one.want == nil:
			text = "remove"
		case one.todo:
			text = "deploy"
		}
		got[name] = text
	}
	want := map[string]string{"same": "rest", "changed": "deploy", "gone": "remove", "refused": "deploy", "new": "deploy"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if units["changed"].generation != 9 || units["same"].generation != 0 {
		t.Errorf("generations: changed %d, want 9; same %d, want 0", units["changed"].generation, units["same"].generation)
	}
}

func TestMoved(t *testing.T) {
	t.Parallel()
	manifests := bundleNamed("web")
	chart := bundleNamed("web")
	chart.Method, chart.Release = v1alpha1.MethodRelease, &v1alpha1.TargetRelease{Name: "web"}
	elsewhere := chart
	elsewhere.Namespace = "other"
	renamed := chart
	renamed.Release = &v1alpha1.TargetRelease{Name: "site"}
	manifestsElsewhere := manifests
	manifestsElsewhere.Namespace = "other"
	tests := []struct {
		name      string
		old, next v1alpha1.TargetBundle
		want      bool
	}{
		{"nothing", manifests, manifests, false},
		{"manifests in another namespace", manifests, manifestsElsewhere, false}, // the inventory prunes
		{"method", manifests, chart, true},
		{"release", chart, chart, false},
		{"release in another namespace", chart, elsewhere, true},
		{"release of another name", chart, renamed, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := moved(&test.old, &test.next); got != test.want {
				t.Errorf("moved = %v, want %v", got, test.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	problems := []v1alpha1.Problem{{Object: "apps/v1 Deployment shop/web", Reason: "InProgress", Message: "0 of 1"}}
	tests := []struct {
		name   string
		health apply.Health
		late   bool
		state  v1alpha1.State
		reason Reason
		text   string
	}{
		{"ready", apply.Health{Ready: 2, Total: 2}, false, v1alpha1.StateReady, ReasonReady, ""},
		{"nothing to be ready", apply.Health{}, false, v1alpha1.StateReady, ReasonReady, ""},
		{
			"on its way",
			apply.Health{Ready: 1, Total: 2, Problems: problems},
			false, v1alpha1.StateUpdating, ReasonReconciling,
			"apps/v1 Deployment shop/web is InProgress: 0 of 1",
		},
		{
			"more than one",
			apply.Health{Ready: 0, Total: 3, Problems: problems},
			false, v1alpha1.StateUpdating, ReasonReconciling,
			"apps/v1 Deployment shop/web is InProgress: 0 of 1 (and 2 more)",
		},
		{"too late", apply.Health{Ready: 1, Total: 2}, true, v1alpha1.StateFailed, ReasonTimedOut, ""},
		{"failed", apply.Health{Ready: 1, Total: 2, Failed: true}, false, v1alpha1.StateFailed, ReasonNotReady, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := judge(&unit{}, test.health, test.late)
			if got.state != test.state || got.reason != test.reason || got.message != test.text {
				t.Errorf("judge = %s %s %q, want %s %s %q", got.state, got.reason, got.message, test.state, test.reason, test.text)
			}
			wait := false
			heedless := &unit{recorded: &Record{}}
			heedless.recorded.Bundle.Health.Wait = &wait
			got = judge(heedless, test.health, test.late)
			if got.state != v1alpha1.StateReady || got.ready != test.health.Ready || got.objects != test.health.Total {
				t.Errorf("judge without waiting = %s %d/%d", got.state, got.ready, got.objects)
			}
		})
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{
		1: 5 * time.Second, 2: 10 * time.Second, 4: 40 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute,
	} {
		got := pause(failures, firstPause, longPause)
		if got < want-want/20 || got > want+want/20 {
			t.Errorf("pause(%d) = %s, want %s give or take a twentieth", failures, got, want)
		}
	}
}

func TestSinceMovesWithTheState(t *testing.T) {
	t.Parallel()
	one := &unit{}
	one.stand(standing{state: v1alpha1.StateUpdating, ready: 1}, noon)
	one.changed = false
	one.stand(standing{state: v1alpha1.StateUpdating, ready: 1}, noon.Add(time.Second))
	if one.changed {
		t.Error("the same standing counts as a change")
	}
	one.stand(standing{state: v1alpha1.StateUpdating, ready: 2}, noon.Add(2*time.Second))
	if !one.changed || one.since != noon {
		t.Errorf("changed %v, since %s; want true, %s", one.changed, one.since, noon)
	}
	one.stand(standing{state: v1alpha1.StateReady, ready: 2}, noon.Add(3*time.Second))
	if want := noon.Add(3 * time.Second); one.since != want {
		t.Errorf("since %s, want %s", one.since, want)
	}
}
