package apply

import (
	"strconv"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

var gadget = Ref{APIVersion: "example.com/v1", Kind: "Gadget", Namespace: "shop", Name: "a"}

// gadgetAt is a gadget at a resource version; manager is who last wrote what we apply.
func gadgetAt(version int, ready bool, manager string) *unstructured.Unstructured {
	state := "False"
	if ready {
		state = "True"
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": gadget.APIVersion, "kind": gadget.Kind,
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": state}}},
	}}
	object.SetName(gadget.Name)
	object.SetNamespace(gadget.Namespace)
	object.SetLabels(map[string]string{v1alpha1.LabelBundle: "shop"})
	object.SetResourceVersion(strconv.Itoa(version))
	object.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply}})
	return object
}

// What a watch told is not undone by an answer that was on its way meanwhile: nothing would tell it again.
func TestLateAnswersUndoNothing(t *testing.T) {
	bundle := Bundle{Name: "shop"}
	checked := bundle
	checked.Options.Health.Checks = []v1alpha1.HealthCheck{{APIVersion: gadget.APIVersion, Kind: gadget.Kind, Ready: "true"}}
	late := gadgetAt(5, false, v1alpha1.FieldManager)
	for name, test := range map[string]struct {
		answer func(*Applier)
		asked  bool // whether its health is read anew
	}{
		"to an apply or a comparison": {answer: func(a *Applier) { a.Accept(bundle, late) }},
		"to one with another rule":    {answer: func(a *Applier) { a.Accept(checked, late) }, asked: true},
		"to a reading":                {answer: func(a *Applier) { a.live.looked(gadget, late, bundle, a.checks) }},
		"that it is not there":        {answer: func(a *Applier) { a.live.looked(gadget, nil, bundle, a.checks) }},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Applier{live: newTable(time.Now), checks: health.NewRules()}
			a.Watched(schema.GroupKind{Group: "example.com", Kind: "Gadget"}, true)
			a.Accept(bundle, gadgetAt(4, false, v1alpha1.FieldManager))
			if seen := a.Observe(gadgetAt(7, true, v1alpha1.FieldManager), true); !seen.Health || seen.Drifted {
				t.Fatalf("it got ready: %+v", seen)
			}
			test.answer(a)
			if asked := len(a.live.unknown([]Ref{gadget}, v1alpha1.Health{})) > 0; asked != test.asked {
				t.Errorf("read anew: %v, want %v", asked, test.asked)
			}
			e := a.live.entries([]Ref{gadget})[gadget.ID()]
			if e.status != status.CurrentStatus || e.version != 7 {
				t.Errorf("%s at %d, want it Current at 7", e.status, e.version)
			}
			if a.Drifted(gadget) {
				t.Error("it counts as drifted")
			}
		})
	}
}

// Nor is a change that somebody made after the comparison whose result is noted only now.
func TestLateComparisonsHideNoDrift(t *testing.T) {
	a := &Applier{live: newTable(time.Now), checks: health.NewRules()}
	bundle := Bundle{Name: "shop"}
	a.Accept(bundle, gadgetAt(4, true, v1alpha1.FieldManager))
	if seen := a.Observe(gadgetAt(7, true, "kubectl"), true); !seen.Drifted {
		t.Fatalf("somebody took our fields: %+v", seen)
	}
	a.Accept(bundle, gadgetAt(5, true, v1alpha1.FieldManager))
	if !a.Drifted(gadget) {
		t.Error("the change is forgotten")
	}
}
