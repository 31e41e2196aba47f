package release

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func TestMerge(t *testing.T) {
	type values = map[string]any
	for name, tc := range map[string]struct{ base, over, want values }{
		"maps by key":        {values{"a": values{"x": 1, "y": 2}}, values{"a": values{"y": 3}}, values{"a": values{"x": 1, "y": 3}}},
		"lists replaced":     {values{"a": []any{1, 2}}, values{"a": []any{3}}, values{"a": []any{3}}},
		"map over scalar":    {values{"a": 1}, values{"a": values{"x": 1}}, values{"a": values{"x": 1}}},
		"scalar over map":    {values{"a": values{"x": 1}}, values{"a": 1}, values{"a": 1}},
		"null removes later": {values{"a": 1}, values{"a": nil}, values{"a": nil}},
		"nothing":            {nil, nil, values{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, merge(tc.base, tc.over)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The digest changes with what makes the release another, and with nothing else.
func TestDigest(t *testing.T) {
	base := Release{Bundle: "a", Chart: []byte("chart")}
	of := func(change func(*Release), values map[string]any) string {
		release := base
		if change != nil {
			change(&release)
		}
		sum, err := digest(release, values)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	first := of(nil, map[string]any{"x": 1, "y": 2})
	if again := of(nil, map[string]any{"y": 2, "x": 1}); again != first {
		t.Error("the order of values counts")
	}
	if same := of(func(r *Release) { r.Helm.MaxHistory = 9; r.Options.Drift.Mode = v1alpha1.DriftWarn }, map[string]any{"x": 1, "y": 2}); same != first {
		t.Error("options that change no object count")
	}
	for name, other := range map[string]string{
		"values": of(nil, map[string]any{"x": 1}),
		"chart":  of(func(r *Release) { r.Chart = []byte("other") }, map[string]any{"x": 1, "y": 2}),
		"bundle": of(func(r *Release) { r.Bundle = "b" }, map[string]any{"x": 1, "y": 2}),
	} {
		if other == first {
			t.Errorf("%s don't count", name)
		}
	}
	if len(first) > 63 {
		t.Errorf("%q is no label value", first)
	}
}
