package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewer(t *testing.T) {
	t.Parallel()
	later := noon.Add(time.Hour)
	tests := []struct {
		name       string
		a, b, want Known
	}{
		{"nothing", Known{}, Known{}, Known{}},
		{"one lost", Known{4, "b", noon, 2}, Known{}, Known{4, "b", noon, 2}},
		{"one older", Known{4, "b", later, 2}, Known{3, "a", noon, 1}, Known{4, "b", later, 2}},
		{"each knows something newer", Known{3, "a", later, 1}, Known{4, "b", noon, 2}, Known{4, "b", later, 2}},
		{"a generation without its digest", Known{4, "", noon, 0}, Known{4, "b", noon, 0}, Known{4, "b", noon, 0}},
		{"the same", Known{4, "b", noon, 2}, Known{4, "b", noon, 2}, Known{4, "b", noon, 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, got := range []Known{newer(test.a, test.b), newer(test.b, test.a)} {
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			}
		})
	}
}
