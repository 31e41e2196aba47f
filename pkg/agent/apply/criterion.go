package apply

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

// criterion is what an object's health is judged by.
type criterion struct {
	// ready is a CEL expression, empty when kstatus decides.
	ready string
	// ignored are the conditions that don't count, as JSON, so that criteria can be compared; empty for none.
	ignored string
}

// criterionFor returns what the object is judged by.
func criterionFor(options v1alpha1.Health, ref Ref) criterion {
	var out criterion
	if len(options.IgnoreConditions) > 0 && !Plain(ref.ID().groupKind()) {
		data, _ := json.Marshal(options.IgnoreConditions) // texts only
		out.ignored = string(data)
	}
	for _, check := range options.Checks {
		if check.Kind == ref.Kind && (check.APIVersion == "" || group(check.APIVersion) == ref.ID().Group) {
			out.ready = check.Ready
			break
		}
	}
	return out
}

// condition says how an object is, by the rule or by kstatus.
func condition(rules *health.Rules, object *unstructured.Unstructured, rule criterion) (status.Status, string) {
	result, err := status.Compute(withoutConditions(object, rule.ignored))
	if err != nil {
		return status.UnknownStatus, err.Error()
	}
	if rule.ready == "" || result.Status == status.TerminatingStatus {
		return result.Status, oneLine(result.Message)
	}
	switch ready, err := rules.Ready(rule.ready, object.Object); {
	case err != nil:
		return status.InProgressStatus, "health check: " + oneLine(err.Error())
	case !ready:
		return status.InProgressStatus, "health check is false: " + rule.ready
	}
	return status.CurrentStatus, ""
}

// withoutConditions returns the object without the conditions that have all fields of one that is ignored. The object
// itself stays as it is.
func withoutConditions(object *unstructured.Unstructured, ignored string) *unstructured.Unstructured {
	var all []map[string]string
	if ignored == "" {
		return object
	}
	observed, _, err := unstructured.NestedFieldNoCopy(object.Object, "status")
	state, isMap := observed.(map[string]any)
	conditions, isList := state["conditions"].([]any)
	if err != nil || !isMap || !isList || json.Unmarshal([]byte(ignored), &all) != nil {
		return object
	}
	kept := slices.DeleteFunc(slices.Clone(conditions), func(condition any) bool {
		fields, _ := condition.(map[string]any)
		return slices.ContainsFunc(all, func(one map[string]string) bool {
			for name, value := range one {
				if has, isText := fields[name].(string); !isText || has != value {
					return false
				}
			}
			return true
		})
	})
	state = maps.Clone(state)
	state["conditions"] = kept
	out := maps.Clone(object.Object)
	out["status"] = state
	return &unstructured.Unstructured{Object: out}
}
