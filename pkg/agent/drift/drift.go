// Package drift notices when live objects are no longer as they were applied, and says what to do about it. It needs
// the cluster only, never a registry.
//
// A [Watcher] watches what carries our label, of the kinds that are in inventories and no others, and tells a change to
// our fields from everything else by metadata alone: see apply.Applier.Observe. What it reports is compared by
// [Check], which gives a [Verdict]; [Contest] says when a repair is pointless because somebody undoes it each time.
package drift

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/wI2L/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Kind of a verdict: a closed set.
type Kind string

// Kinds of verdicts.
const (
	None     Kind = "None"     // as it should be
	Ignored  Kind = "Ignored"  // differs only where rules say that it may
	Missing  Kind = "Missing"  // is not there
	Modified Kind = "Modified" // our fields differ
	Foreign  Kind = "Foreign"  // belongs to another bundle now: not ours to repair
)

// Verdict on one object.
type Verdict struct {
	Kind Kind
	// Paths are JSON pointers to what differs, sorted; never values, which may be secret.
	Paths []string
	// Manager is the field manager that probably changed it, empty when unknown.
	Manager string
}

// Drifted says whether there is something to repair.
func (v Verdict) Drifted() bool { return v.Kind == Missing || v.Kind == Modified }

// String is one line for people: "modified by kubectl-edit at /spec/replicas".
func (v Verdict) String() string {
	text := strings.ToLower(string(v.Kind))
	if v.Manager != "" {
		text += " by " + v.Manager
	}
	if len(v.Paths) > 0 {
		text += " at " + strings.Join(v.Paths[:min(3, len(v.Paths))], ", ")
	}
	if more := len(v.Paths) - 3; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Check compares one of the bundle's objects with the cluster. What turns out to be as it should be, or ignored, is
// accepted, so that it is no event again until somebody changes it anew. Replicas that differ are an autoscaler's where
// one scales the object.
func Check(ctx context.Context, applier *apply.Applier, bundle apply.Bundle, object *unstructured.Unstructured) (Verdict, error) {
	comparison, err := applier.DryRun(ctx, bundle, object)
	if err != nil {
		return Verdict{}, err
	}
	rules := bundle.Options.Drift.Ignore
	verdict, err := Judge(comparison, rules)
	if err == nil && verdict.Kind == Modified && slices.Contains(verdict.Paths, apply.Replicas) {
		var scaled bool
		if scaled, err = applier.Autoscaled(ctx, bundle, apply.RefOf(comparison.Desired)); scaled {
			rules = append(slices.Clone(rules), v1alpha1.DriftIgnore{JSONPointers: []string{apply.Replicas}})
			verdict, err = Judge(comparison, rules)
		}
	}
	if err != nil {
		return Verdict{}, err
	}
	if verdict.Kind == None || verdict.Kind == Ignored {
		applier.Accept(bundle, comparison.Live)
	}
	return verdict, nil
}

// Judge is pure: it compares the live object with what an apply would make of it. Fields that we don't apply, and the
// status, never count: not even when a webhook makes them anew with each apply.
func Judge(comparison apply.Comparison, rules []v1alpha1.DriftIgnore) (Verdict, error) {
	live, merged := comparison.Live, comparison.Merged
	if live == nil {
		return Verdict{Kind: Missing}, nil
	}
	bundle := comparison.Desired.GetLabels()[v1alpha1.LabelBundle]
	if other := live.GetLabels()[v1alpha1.LabelBundle]; other != "" && other != bundle {
		return Verdict{Kind: Foreign, Manager: other}, nil
	}
	all, err := difference(comparison.Desired, live, merged)
	if err != nil || len(all) == 0 {
		return Verdict{Kind: None}, err
	}
	pointers := apply.IgnoredPointers(rules, comparison.Desired)
	if len(pointers) == 0 {
		return Verdict{Kind: Modified, Paths: all, Manager: apply.Intruder(live, all)}, nil
	}
	pointers = apply.Expand(pointers, live, merged)
	liveLeft, err := apply.WithoutFields(live, pointers)
	if err != nil {
		return Verdict{}, err
	}
	mergedLeft, err := apply.WithoutFields(merged, pointers)
	if err != nil {
		return Verdict{}, err
	}
	left, err := difference(comparison.Desired, liveLeft, mergedLeft)
	switch {
	case err != nil:
		return Verdict{}, err
	case len(left) == 0:
		return Verdict{Kind: Ignored, Paths: all}, nil
	}
	return Verdict{Kind: Modified, Paths: left, Manager: apply.Intruder(live, left)}, nil
}

// difference returns JSON pointers to what differs of the fields that desired has, metadata other than labels and
// annotations, and status, left out.
func difference(desired, live, merged *unstructured.Unstructured) ([]string, error) {
	patch, err := jsondiff.Compare(comparable(live), comparable(merged))
	if err != nil {
		return nil, fmt.Errorf("compare %s: %w", apply.RefOf(live), err)
	}
	paths := make([]string, 0, len(patch))
	for _, operation := range patch {
		if apply.Has(desired, operation.Path) {
			paths = append(paths, operation.Path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

func comparable(object *unstructured.Unstructured) map[string]any {
	out := make(map[string]any, len(object.Object))
	for field, value := range object.Object {
		if field != "status" && field != "metadata" {
			out[field] = value
		}
	}
	labels, annotations := map[string]any{}, map[string]any{}
	for key, value := range object.GetLabels() {
		labels[key] = value
	}
	for key, value := range object.GetAnnotations() {
		annotations[key] = value
	}
	out["metadata"] = map[string]any{"labels": labels, "annotations": annotations}
	return out
}
