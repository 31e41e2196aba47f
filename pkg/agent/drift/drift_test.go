package drift

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

func TestJudge(t *testing.T) {
	object := func(change func(map[string]any)) *unstructured.Unstructured {
		fields := map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": map[string]any{
				"name": "web", "namespace": "shop", "resourceVersion": "7", "labels": map[string]any{v1alpha1.LabelBundle: "shop"},
			},
			"spec": map[string]any{"replicas": int64(1), "paused": false}, "status": map[string]any{"replicas": int64(1)},
		}
		if change != nil {
			change(fields)
		}
		return &unstructured.Unstructured{Object: fields}
	}
	spec := func(field string, value any) func(map[string]any) {
		return func(fields map[string]any) { fields["spec"].(map[string]any)[field] = value }
	}
	both := func(fields map[string]any) { spec("replicas", int64(9))(fields); spec("paused", true)(fields) }
	ignore := func(pointers ...string) []v1alpha1.DriftIgnore {
		return []v1alpha1.DriftIgnore{{Kind: "Deployment", Name: "w*", Namespace: "shop", JSONPointers: pointers}}
	}
	for name, tc := range map[string]struct {
		live  *unstructured.Unstructured
		rules []v1alpha1.DriftIgnore
		want  Verdict
	}{
		"same":               {object(nil), nil, Verdict{Kind: None}},
		"missing":            {nil, nil, Verdict{Kind: Missing}},
		"status and version": {object(func(f map[string]any) { f["status"] = "x"; f["metadata"].(map[string]any)["resourceVersion"] = "8" }), nil, Verdict{Kind: None}},
		"modified":           {object(spec("replicas", int64(9))), nil, Verdict{Kind: Modified, Paths: []string{"/spec/replicas"}}},
		"ignored":            {object(spec("replicas", int64(9))), ignore("/spec/replicas"), Verdict{Kind: Ignored, Paths: []string{"/spec/replicas"}}},
		"ignored with all":   {object(both), ignore("/spec"), Verdict{Kind: Ignored, Paths: []string{"/spec/paused", "/spec/replicas"}}},
		"partly ignored":     {object(both), ignore("/spec/replicas"), Verdict{Kind: Modified, Paths: []string{"/spec/paused"}}},
		"another's rule": {
			object(spec("replicas", int64(9))),
			[]v1alpha1.DriftIgnore{{Kind: "StatefulSet", JSONPointers: []string{"/spec"}}},
			Verdict{Kind: Modified, Paths: []string{"/spec/replicas"}},
		},
		"foreign": {
			object(func(f map[string]any) {
				f["metadata"].(map[string]any)["labels"] = map[string]any{v1alpha1.LabelBundle: "other"}
			}),
			nil,
			Verdict{Kind: Foreign, Manager: "other"},
		},
		"label removed": {
			object(func(f map[string]any) { delete(f["metadata"].(map[string]any), "labels") }),
			nil,
			Verdict{Kind: Modified, Paths: []string{"/metadata/labels/pinnace.dev~1bundle"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			comparison := apply.Comparison{Desired: object(nil), Live: tc.live, Merged: object(nil)}
			got, err := Judge(comparison, tc.rules)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

// A webhook may make a field of its own anew with each apply: that is nobody's drift. A rule's wildcard stands for every
// item, those that something put in between included.
func TestJudgeWhatAWebhookMade(t *testing.T) {
	pod := func(stamp, image string, containers ...string) *unstructured.Unstructured {
		items := []any{}
		for _, name := range containers {
			items = append(items, map[string]any{"name": name, "image": image})
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"annotations": map[string]any{"own": "x", "stamp": stamp}},
			"spec": map[string]any{"containers": items},
		}}
	}
	desired := pod("", "1", "web")
	unstructured.RemoveNestedField(desired.Object, "metadata", "annotations", "stamp")
	images := []v1alpha1.DriftIgnore{{JSONPointers: []string{"/spec/containers/*/image"}}}
	for name, tc := range map[string]struct {
		live, merged *unstructured.Unstructured
		rules        []v1alpha1.DriftIgnore
		want         Verdict
	}{
		"its own field": {pod("7", "1", "proxy", "web"), pod("8", "1", "proxy", "web"), nil, Verdict{Kind: None}},
		"our field":     {pod("7", "2", "web"), pod("8", "1", "web"), nil, Verdict{Kind: Modified, Paths: []string{"/spec/containers/0/image"}}},
		"all images": {
			pod("7", "2", "proxy", "web"), pod("7", "1", "proxy", "web"), images,
			Verdict{Kind: Ignored, Paths: []string{"/spec/containers/0/image", "/spec/containers/1/image"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Judge(apply.Comparison{Desired: desired, Live: tc.live, Merged: tc.merged}, tc.rules)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerdictString(t *testing.T) {
	verdict := Verdict{Kind: Modified, Manager: "kubectl-edit", Paths: []string{"/a", "/b", "/c", "/d"}}
	if got, want := verdict.String(), "modified by kubectl-edit at /a, /b, /c and 1 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestContest(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		repairs []time.Duration // after the start
		ask     time.Duration
		until   time.Duration // after the start; zero when not contested
	}{
		"never":                  {nil, 0, 0},
		"four":                   {[]time.Duration{0, 1, 2, 3}, time.Minute, 0},
		"five":                   {[]time.Duration{0, 1, 2, 3, 4}, time.Minute, 4 + Window},
		"five over a long time":  {[]time.Duration{0, 3 * time.Minute, 6 * time.Minute, 9 * time.Minute, 12 * time.Minute}, 12 * time.Minute, 0},
		"over after the pause":   {[]time.Duration{0, 1, 2, 3, 4}, 5 + Window, 0},
		"one more after it":      {[]time.Duration{0, 1, 2, 3, 4, 5 + Window}, 6 + Window, 5 + 3*Window},
		"and again":              {[]time.Duration{0, 1, 2, 3, 4, 5 + Window, 6 + 3*Window}, 7 + 3*Window, 6 + 7*Window},
		"peace after the pause":  {[]time.Duration{0, 1, 2, 3, 4, 6 + 2*Window}, 7 + 2*Window, 0},
		"a clock that goes back": {[]time.Duration{5 * time.Hour, 5 * time.Hour, 5 * time.Hour, 5 * time.Hour, 0}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var contest Contest
			for _, at := range tc.repairs {
				contest.Repaired(start.Add(at))
			}
			got, want := contest.Until(start.Add(tc.ask)), time.Time{}
			if tc.until != 0 {
				want = start.Add(tc.until)
			}
			if !got.Equal(want) {
				t.Errorf("contested until %v, want %v", got, want)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	contested := func() *Contest {
		var contest Contest
		for range Repairs {
			contest.Repaired(now)
		}
		return &contest
	}
	for name, tc := range map[string]struct {
		kind    Kind
		mode    v1alpha1.DriftMode
		contest *Contest
		want    Act
	}{
		"none":      {None, v1alpha1.DriftCorrect, &Contest{}, Leave},
		"ignored":   {Ignored, v1alpha1.DriftCorrect, &Contest{}, Leave},
		"missing":   {Missing, v1alpha1.DriftCorrect, &Contest{}, Repair},
		"default":   {Modified, "", &Contest{}, Repair},
		"warn":      {Modified, v1alpha1.DriftWarn, &Contest{}, Report},
		"off":       {Missing, v1alpha1.DriftOff, &Contest{}, Leave},
		"foreign":   {Foreign, v1alpha1.DriftCorrect, &Contest{}, Report},
		"contested": {Modified, v1alpha1.DriftCorrect, contested(), Concede},
	} {
		t.Run(name, func(t *testing.T) {
			act, until := Decide(Verdict{Kind: tc.kind}, tc.mode, tc.contest, now)
			if act != tc.want || until.IsZero() != (act != Concede) {
				t.Errorf("got %s until %v, want %s", act, until, tc.want)
			}
		})
	}
}
