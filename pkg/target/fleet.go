package target

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

// Bundle is a bundle with where it comes from.
type Bundle struct {
	v1alpha1.Bundle
	Source v1alpha1.SourceIdentity
	// Restrict is the source's.
	Restrict *v1alpha1.Restrict
	// Targets are the rules that hold: the bundle's own, or else its source's. Exclude are the source's; the bundle's own
	// hold beside them.
	Targets []v1alpha1.TargetRule
	Exclude []v1alpha1.TargetRule
	// Document places errors; its zero value gives errors without a line.
	Document document.Document
}

// Cluster is a cluster with where it was declared.
type Cluster struct {
	v1alpha1.Cluster
	Document document.Document
}

// Group is a cluster group with where it was declared.
type Group struct {
	v1alpha1.ClusterGroup
	Document document.Document
}

// Fleet is everything that a plan is computed from.
type Fleet struct {
	Spec     v1alpha1.FleetSpec
	Name     string
	Clusters []Cluster
	Groups   []Group
	Bundles  []Bundle
	// Kept names bundles that clusters have from an earlier publish and keep: they are not planned, but others may
	// depend on them.
	Kept map[string]bool
	// Facts are what agents reported, by cluster.
	Facts map[string]Facts
	// SealKey identifies secret values, so that unchanged ones keep their ciphertext. Without one nothing can be sealed.
	SealKey []byte

	groups map[string]labels.Selector
	rules  []rules // of each bundle
	// templates and matchers are shared by all bundles: the same rule stands in many of them.
	templates *templates
	matchers  *matchers
}

// New checks that names are unique, groups and rules select something and dependencies exist, and sorts everything by
// name. It returns all findings at once.
func New(fleet Fleet) (*Fleet, error) {
	f := fleet
	f.Clusters = slices.SortedFunc(slices.Values(f.Clusters), func(a, b Cluster) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	f.Groups = slices.SortedFunc(slices.Values(f.Groups), func(a, b Group) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	f.Bundles = slices.SortedFunc(slices.Values(f.Bundles), func(a, b Bundle) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	f.groups = map[string]labels.Selector{}
	f.templates, f.matchers = &templates{}, newMatchers(&f)
	f.rules = make([]rules, len(f.Bundles))

	if len(f.Clusters) == 0 {
		return &f, errors.New("the fleet has no cluster; name a folder with Cluster documents in spec.inventory")
	}
	var errs []error
	for i, cluster := range f.Clusters {
		if i > 0 && f.Clusters[i-1].Metadata.Name == cluster.Metadata.Name {
			errs = append(errs, cluster.Document.Errorf("metadata.name", "duplicate cluster %q, declared in %s too; rename one",
				cluster.Metadata.Name, place(f.Clusters[i-1].Document)))
		}
	}
	for i, group := range f.Groups {
		name := group.Metadata.Name
		if i > 0 && f.Groups[i-1].Metadata.Name == name {
			errs = append(errs, group.Document.Errorf("metadata.name", "duplicate cluster group %q, declared in %s too; rename one",
				name, place(f.Groups[i-1].Document)))
		}
		selector, err := metav1.LabelSelectorAsSelector(&group.Spec.Selector)
		if err != nil {
			errs = append(errs, group.Document.Errorf("spec.selector", "%v", err))
			continue
		}
		f.groups[name] = selector
	}
	for i, bundle := range f.Bundles {
		if i > 0 && f.Bundles[i-1].Metadata.Name == bundle.Metadata.Name {
			errs = append(errs, bundle.Document.Errorf("metadata.name", "duplicate bundle %q, also in %s of source %q; rename one",
				bundle.Metadata.Name, f.Bundles[i-1].Source.Path, f.Bundles[i-1].Source.Name))
		}
		errs = append(errs, f.compileRules(bundle, &f.rules[i])...)
		errs = append(errs, f.checkDependencies(bundle)...)
		if err := bundle.checkNamespaceLabels(); err != nil {
			errs = append(errs, bundle.Document.Errorf("spec.namespaceLabels", "bundle %q: %v", bundle.Metadata.Name, err))
		}
		if err := bundle.checkServiceAccount(); err != nil {
			errs = append(errs, bundle.Document.Errorf("spec.serviceAccount", "bundle %q: %v", bundle.Metadata.Name, err))
		}
	}
	return &f, errors.Join(errs...)
}

func place(d document.Document) string {
	if d.File == "" {
		return "another file"
	}
	return fmt.Sprintf("%s:%d", d.File, d.Line)
}

// compileRules makes the bundle's rules ready, and refuses those that are wrong or select no cluster.
func (f *Fleet) compileRules(bundle Bundle, into *rules) []error {
	name := bundle.Metadata.Name
	if len(bundle.Targets) == 0 {
		return []error{bundle.Document.Errorf("spec.targets",
			"bundle %q has no targets; say who gets it in its spec.targets or in its source's targets (targets: [{}] is everyone)", name)}
	}
	into.templates = f.templates
	var errs []error
	// Rules of the source stand in another document; only the bundle's own have a place here.
	for i, rule := range bundle.Targets {
		m, err := f.matchers.compile(rule)
		if err != nil {
			errs = append(errs, bundle.Document.Errorf(fmt.Sprintf("spec.targets[%d]", i), "bundle %q: %v", name, err))
		}
		into.targets = append(into.targets, m)
	}
	for i, rule := range bundle.Spec.Exclude {
		m, err := f.matchers.compile(rule)
		if err != nil {
			errs = append(errs, bundle.Document.Errorf(fmt.Sprintf("spec.exclude[%d]", i), "bundle %q: exclude: %v", name, err))
		}
		into.exclude = append(into.exclude, m)
	}
	for _, rule := range bundle.Exclude {
		m, err := f.matchers.compile(rule)
		if err != nil {
			errs = append(errs, bundle.Document.Errorf("", "bundle %q: exclude of source %q: %v", name, bundle.Source.Name, err))
		}
		into.exclude = append(into.exclude, m)
	}
	for i, override := range bundle.Spec.Overrides {
		m, err := f.matchers.compile(override.When)
		if err != nil {
			errs = append(errs, bundle.Document.Errorf(fmt.Sprintf("spec.overrides[%d].when", i), "bundle %q: override: %v", name, err))
		}
		into.overrides = append(into.overrides, m)
	}
	return errs
}

func (f *Fleet) checkDependencies(bundle Bundle) []error {
	var errs []error
	for i, dependency := range bundle.Spec.DependsOn {
		if dependency.Bundle != "" && !f.Kept[dependency.Bundle] && !slices.ContainsFunc(f.Bundles, func(b Bundle) bool { return b.Metadata.Name == dependency.Bundle }) {
			errs = append(errs, bundle.Document.Errorf(fmt.Sprintf("spec.dependsOn[%d].bundle", i), "bundle %q depends on %q, which no source has",
				bundle.Metadata.Name, dependency.Bundle))
		}
	}
	return errs
}

// maxNames bounds the names in an error.
const maxNames = 8

func names[T any](items []T, name func(T) string) string {
	if len(items) == 0 {
		return "none"
	}
	var out []string
	for _, item := range items[:min(len(items), maxNames)] {
		out = append(out, name(item))
	}
	if len(items) > maxNames {
		out = append(out, fmt.Sprintf("and %d more", len(items)-maxNames))
	}
	return strings.Join(out, ", ")
}
