package fleetyaml

import (
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// drift: Fleet tells of modified objects always, and puts them back only with correctDrift.enabled. So the mode is warn
// without it, whatever the default of the fleet.
func (c *converter) drift() {
	drift := &c.out.Spec.Drift
	drift.Mode = v1alpha1.DriftWarn
	if in := c.in.CorrectDrift; in != nil {
		c.origins["spec.drift.mode"] = "correctDrift.enabled"
		if in.Enabled {
			drift.Mode = v1alpha1.DriftCorrect
		}
		if in.Force {
			c.out.Spec.Force = true
			c.warn("correctDrift.force", "recreates objects only where a field that cannot change did")
		}
		if in.KeepFailHistory {
			c.warn("correctDrift.keepFailHistory", "has no equal; differences are put back without a new revision of the release")
		}
	}
	if c.in.Diff == nil {
		return
	}
	for i, patch := range c.in.Diff.ComparePatches {
		c.comparePatch(place("diff.comparePatches", i), patch)
	}
}

func (c *converter) comparePatch(field string, in comparePatch) {
	out := v1alpha1.DriftIgnore{APIVersion: in.APIVersion, Kind: in.Kind, Name: in.Name, Namespace: in.Namespace}
	for i, pointer := range in.JSONPointers {
		if !strings.HasPrefix(pointer, "/") {
			c.refuse(place(field+".jsonPointers", i), "%q is no JSON pointer; write it like /spec/replicas", pointer)
			continue
		}
		out.JSONPointers = append(out.JSONPointers, pointer)
	}
	for i, operation := range in.Operations {
		at := place(field+".operations", i)
		switch operation.Op {
		case "ignore":
			c.ignoreObject(at)
			continue
		case "remove", "replace":
		default:
			c.refuse(at+".op", "%q is not supported; use remove", operation.Op)
			continue
		}
		if !strings.HasPrefix(operation.Path, "/") {
			c.refuse(at+".path", "%q is no JSON pointer; write it like /spec/replicas", operation.Path)
			continue
		}
		if operation.Op == "replace" {
			c.warn(at+".op", "the field is ignored, whatever its value")
		}
		out.JSONPointers = append(out.JSONPointers, operation.Path)
	}
	if len(out.JSONPointers) == 0 {
		return
	}
	at := place("spec.drift.ignore", len(c.out.Spec.Drift.Ignore))
	c.origins[at] = field
	c.out.Spec.Drift.Ignore = append(c.out.Spec.Drift.Ignore, out)
}

// ignoreObject: only fields can be left alone, no whole object. Where nothing is put back, it is merely told of.
func (c *converter) ignoreObject(field string) {
	if c.out.Spec.Drift.Mode == v1alpha1.DriftCorrect {
		c.refuse(field+".op", "a whole object cannot be left alone; name its fields in jsonPointers")
		return
	}
	c.warn(field+".op", "a whole object cannot be left alone; differences of it are told, and not put back")
}
