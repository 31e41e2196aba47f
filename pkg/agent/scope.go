package agent

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/manifests"
)

// Scope is what one bundle may touch: what its source's restriction in the target and this agent's own limit both
// allow. The zero value allows everything.
type Scope struct {
	restricted [][]string // of each layer, the namespace patterns: one must match in every layer
	namespaced bool       // cluster-scoped objects are refused
	// ServiceAccount is impersonated; the agent's own rights when empty.
	ServiceAccount string
}

// newScope computes a bundle's scope. The first limit whose pattern matches the source's name holds; the target can
// only narrow it.
func newScope(bundle *v1alpha1.TargetBundle, limits []v1alpha1.Limit) (Scope, error) {
	scope := Scope{ServiceAccount: bundle.ServiceAccount}
	if restrict := bundle.Restrict; restrict != nil {
		if len(restrict.Namespaces) > 0 {
			scope.restricted = append(scope.restricted, restrict.Namespaces)
			scope.namespaced = true
		}
		if err := scope.impersonate(restrict.ServiceAccount, "its source's restriction"); err != nil {
			return Scope{}, err
		}
	}
	for _, limit := range limits {
		if !glob(limit.Source, bundle.Source.Name) {
			continue
		}
		if len(limit.Namespaces) > 0 {
			scope.restricted = append(scope.restricted, limit.Namespaces)
		}
		scope.namespaced = scope.namespaced || !limit.ClusterScoped
		if err := scope.impersonate(limit.ServiceAccount, "this agent's limit for source "+bundle.Source.Name); err != nil {
			return Scope{}, err
		}
		break
	}
	if !scope.Namespace(bundle.Namespace) {
		return Scope{}, fmt.Errorf("namespace %q is not allowed for source %q", bundle.Namespace, bundle.Source.Name)
	}
	if scope.namespaced && len(bundle.NamespaceLabels)+len(bundle.NamespaceAnnotations) > 0 {
		// They say how privileged pods may be.
		return Scope{}, fmt.Errorf("namespaceLabels and namespaceAnnotations are not allowed for source %q: they change a namespace itself", bundle.Source.Name)
	}
	return scope, nil
}

func (s *Scope) impersonate(account, who string) error {
	if account == "" {
		return nil
	}
	if s.ServiceAccount != "" && s.ServiceAccount != account {
		return fmt.Errorf("service account %q is not allowed: %s asks for %q", s.ServiceAccount, who, account)
	}
	s.ServiceAccount = account
	return nil
}

// Namespace reports whether objects may be in that namespace.
func (s Scope) Namespace(name string) bool {
	for _, patterns := range s.restricted {
		if !anyGlob(patterns, name) {
			return false
		}
	}
	return true
}

// IsZero reports whether everything is allowed.
func (s Scope) IsZero() bool { return len(s.restricted) == 0 && !s.namespaced }

// Check returns an error that names the objects out of scope. Objects without a namespace get the bundle's. clusterKind
// says whether a kind is cluster-scoped; a kind that it doesn't know counts as namespaced, and is asked for again when
// it is applied.
func (s Scope) Check(objects []*unstructured.Unstructured, bundleNamespace string, clusterKind func(schema.GroupVersionKind) bool) error {
	if s.IsZero() {
		return nil
	}
	var problems []error
	for _, object := range objects {
		if clusterKind(object.GroupVersionKind()) {
			// Not even its own namespace: its labels say how privileged pods may be.
			if s.namespaced {
				problems = append(problems, fmt.Errorf("%s: cluster-scoped objects are not allowed", manifests.Describe(object)))
			}
			continue
		}
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = bundleNamespace
		}
		if !s.Namespace(namespace) {
			problems = append(problems, fmt.Errorf("%s: namespace %q is not allowed", manifests.Describe(object), namespace))
		}
		if len(problems) > v1alpha1.MaxProblems {
			break
		}
	}
	if err := errors.Join(problems...); err != nil {
		return oneLine(err)
	}
	return nil
}

func anyGlob(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if glob(pattern, name) {
			return true
		}
	}
	return false
}

// glob matches a name against a pattern in which * stands for any characters.
func glob(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	rest, found := strings.CutPrefix(name, parts[0])
	for _, part := range parts[1 : len(parts)-1] {
		if !found {
			return false
		}
		_, rest, found = strings.Cut(rest, part)
	}
	return found && strings.HasSuffix(rest, parts[len(parts)-1])
}
