package target

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// CheckNamespace refuses a namespace that the bundle's source may not use. Agents check it again.
func (b *Bundle) CheckNamespace(namespace string) error {
	if b.Restrict == nil || len(b.Restrict.Namespaces) == 0 {
		return nil
	}
	if slices.ContainsFunc(b.Restrict.Namespaces, func(pattern string) bool {
		matched, err := path.Match(pattern, namespace)
		return err == nil && matched
	}) {
		return nil
	}
	return fmt.Errorf("namespace %q is not allowed for source %q, which is restricted to %s",
		namespace, b.Source.Name, strings.Join(b.Restrict.Namespaces, ", "))
}

// checkNamespaceLabels refuses labels on a restricted source's namespace: they say how privileged its pods may be.
func (b *Bundle) checkNamespaceLabels() error {
	if b.Restrict == nil || len(b.Restrict.Namespaces) == 0 || len(b.Spec.NamespaceLabels)+len(b.Spec.NamespaceAnnotations) == 0 {
		return nil
	}
	return fmt.Errorf("namespaceLabels and namespaceAnnotations are not allowed for source %q, which is restricted to namespaces; "+
		"who runs the fleet sets them", b.Source.Name)
}

// checkServiceAccount refuses another service account than the one that the bundle's source is restricted to.
func (b *Bundle) checkServiceAccount() error {
	account := b.Spec.ServiceAccount
	if b.Restrict == nil || b.Restrict.ServiceAccount == "" || account == "" || account == b.Restrict.ServiceAccount {
		return nil
	}
	return fmt.Errorf("service account %q is not allowed for source %q, which is restricted to %q", account, b.Source.Name, b.Restrict.ServiceAccount)
}
