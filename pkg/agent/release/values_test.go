package release

import (
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
)

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
