package v1alpha1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func TestMergeValues(t *testing.T) {
	type m = map[string]any
	tests := []struct {
		name             string
		base, over, want m
	}{
		{"nothing over", m{"a": 1}, nil, m{"a": 1}},
		{"nothing below", nil, m{"a": 1}, m{"a": 1}},
		{"maps by key", m{"a": m{"b": 1, "c": 2}}, m{"a": m{"c": 3}}, m{"a": m{"b": 1, "c": 3}}},
		{"lists are replaced", m{"a": []any{1, 2}}, m{"a": []any{3}}, m{"a": []any{3}}},
		{"null stays, for Helm to remove the default", m{"a": 1}, m{"a": nil}, m{"a": nil}},
		{"null in a map", m{"a": m{"b": 1}}, m{"a": m{"b": nil, "c": nil}}, m{"a": m{"b": nil, "c": nil}}},
		{"a map over null", m{"a": nil}, m{"a": m{"b": 1}}, m{"a": m{"b": 1}}},
		{"null over a map", m{"a": m{"b": 1}}, m{"a": nil}, m{"a": nil}},
		{"another type", m{"a": m{"b": 1}}, m{"a": "x"}, m{"a": "x"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base, over := v1alpha1.Values(test.base).DeepCopy(), v1alpha1.Values(test.over).DeepCopy()
			if diff := cmp.Diff(test.want, v1alpha1.MergeValues(test.base, test.over)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(base, v1alpha1.Values(test.base)); diff != "" {
				t.Errorf("base changed: %s", diff)
			}
			if diff := cmp.Diff(over, v1alpha1.Values(test.over)); diff != "" {
				t.Errorf("over changed: %s", diff)
			}
		})
	}
}
