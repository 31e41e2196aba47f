package bundler

import (
	"fmt"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/window"
)

// windows finds windows that never open, or open when nobody meant them to.
func (c *check) windows(place string, windows []v1alpha1.Window) {
	for i, one := range windows {
		if err := window.Check(one); err != nil {
			c.report(fmt.Sprintf("%s[%d]", place, i), "%v", err)
		}
	}
}

// variablesFrom finds references that name nothing, or that nothing would read.
func (c *check) variablesFrom(place string, references []v1alpha1.VariablesReference) {
	if len(references) > 0 && c.found.Method() == v1alpha1.MethodRelease {
		c.report(place, "variables are replaced in manifests, not in Helm releases; use spec.helm.valuesFrom, or spec.helm.install: apply")
	}
	for i, reference := range references {
		at := fmt.Sprintf("%s[%d]", place, i)
		source := reference.SecretRef
		if source == nil {
			source = reference.ConfigMapRef
		}
		switch {
		case (reference.SecretRef == nil) == (reference.ConfigMapRef == nil):
			c.report(at, "set exactly one of secretRef and configMapRef")
		case source.Name == "":
			c.report(at, "the reference has no name")
		case source.Prefix != "" && !variableName.MatchString(source.Prefix):
			c.report(at, "prefix %q makes no name for a variable; use letters, digits and _", source.Prefix)
		}
	}
}
