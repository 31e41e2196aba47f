package target

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/sealed"
)

// Assignment says whether a cluster gets a bundle, why, and how.
type Assignment struct {
	Cluster string
	Bundle  *Bundle
	// Selected is false when no rule matched or an override skips the bundle; Why says which.
	Selected bool
	Why      string
	// Overrides are the names of those that apply, in order.
	Overrides []string

	// Variant tells apart what renders to other bytes: clusters with equal ones share an artifact. Of a chart that is
	// installed at the edge it also tells apart the overrides, so that the chart is tried with each combination.
	Variant string

	// What holds after overrides and templates, when Selected. Values must not be changed: clusters share them.
	Namespace string
	Values    v1alpha1.Values
	Variables map[string]string
	Kustomize string
	// Overlays are those of plain manifests, in order.
	Overlays  []string
	DependsOn []string

	settings *settings
	// Secrets were taken out of Values and Variables, sorted by path.
	Secrets []Secret

	to sealed.Recipients
}

// ClusterPlan is one cluster with an assignment for each bundle of the fleet, sorted by name.
type ClusterPlan struct {
	Cluster     Cluster
	Assignments []Assignment
}

// Selected returns the assignments that the cluster gets.
func (p ClusterPlan) Selected() []Assignment {
	return slices.DeleteFunc(slices.Clone(p.Assignments), func(a Assignment) bool { return !a.Selected })
}

// maxFindings bounds how many findings a plan returns: one wrong template fails for every cluster.
const maxFindings = 20

// Plan computes every cluster's assignments, sorted by cluster. It returns all findings at once.
func (f *Fleet) Plan() ([]ClusterPlan, error) {
	plans := make([]ClusterPlan, len(f.Clusters))
	var errs []error
	for i := range f.Clusters {
		var err error
		if plans[i], err = f.PlanCluster(i); err != nil {
			errs = append(errs, err)
		}
		if len(errs) == maxFindings {
			errs = append(errs, errors.New("there may be more"))
			break
		}
	}
	return plans, errors.Join(errs...)
}

// PlanCluster computes the assignments of the i-th cluster. It may be called concurrently.
func (f *Fleet) PlanCluster(i int) (ClusterPlan, error) {
	cluster := &f.Clusters[i]
	plan := ClusterPlan{Cluster: *cluster, Assignments: make([]Assignment, len(f.Bundles))}
	seen := f.view(cluster)
	var errs []error
	for b := range f.Bundles {
		var err error
		if plan.Assignments[b], err = f.assign(seen, b); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, resolveDependencies(plan.Assignments, f.Kept)...)
	return plan, errors.Join(errs...)
}

func (f *Fleet) assign(seen *view, b int) (Assignment, error) {
	bundle, rules := &f.Bundles[b], &f.rules[b]
	cluster := seen.cluster
	out := Assignment{Cluster: cluster.Metadata.Name, Bundle: bundle}
	var not []string
	for _, rule := range rules.targets {
		if out.Selected, out.Why = seen.match(rule); out.Selected {
			break
		}
		not = append(not, out.Why)
	}
	if !out.Selected {
		out.Why = strings.Join(not, "; ")
		return out, nil
	}
	for _, rule := range rules.exclude {
		if excluded, why := seen.match(rule); excluded {
			out.Selected, out.Why = false, "excluded: "+why
			return out, nil
		}
	}
	settings, err := rules.settings(bundle, seen)
	if err != nil {
		return out, placeTemplate(bundle, err, "")
	}
	out.Overrides, out.settings = settings.overrides, settings
	if settings.skip != "" {
		out.Selected, out.Why = false, "skipped by override "+settings.skip
		return out, nil
	}
	out.Namespace, out.Kustomize, out.Variant = settings.namespace, settings.kustomize, settings.variant
	out.Overlays = settings.overlays
	values, err := settings.values.expand(seen)
	if err != nil {
		return out, placeTemplate(bundle, err, cluster.Metadata.Name)
	}
	if values := values.(map[string]any); len(values) > 0 {
		out.Values = values
	}
	variables, err := expandAll(settings.variables, seen)
	if err != nil {
		return out, placeTemplate(bundle, err, cluster.Metadata.Name)
	}
	if seen.secrets || settings.secret {
		if err := out.takeSecrets(seen, variables); err != nil {
			return out, err
		}
	}
	out.Variables = texts(variables)
	if settings.values.varies && renders(bundle) {
		out.Variant, err = variantKey(bundle, settings, out.Values)
	}
	return out, err
}

// placeTemplate says where a template stands that failed, and for which cluster.
func placeTemplate(bundle *Bundle, err error, cluster string) error {
	var failed *templateError
	if !errors.As(err, &failed) {
		return err
	}
	if cluster == "" {
		return bundle.Document.Errorf(failed.path, "bundle %q: %v", bundle.Metadata.Name, failed)
	}
	return bundle.Document.Errorf(failed.path, "bundle %q for cluster %q: %v; set it in the cluster's spec.values, or use: | default",
		bundle.Metadata.Name, cluster, failed)
}

// resolveDependencies turns each assignment's dependsOn into names of bundles that the cluster gets, and refuses cycles.
func resolveDependencies(assignments []Assignment, kept map[string]bool) []error {
	var errs []error
	selected := map[string]*Assignment{}
	for i := range assignments {
		if assignments[i].Selected {
			selected[assignments[i].Bundle.Metadata.Name] = &assignments[i]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(selected)) {
		assignment := selected[name]
		for i, dependency := range assignment.Bundle.Spec.DependsOn {
			names, err := resolve(dependency, name, selected, kept)
			if err != nil {
				errs = append(errs, assignment.Bundle.Document.Errorf(fmt.Sprintf("spec.dependsOn[%d]", i), "bundle %q on cluster %q: %v", name, assignment.Cluster, err))
			}
			assignment.DependsOn = append(assignment.DependsOn, names...)
		}
		slices.Sort(assignment.DependsOn)
		assignment.DependsOn = slices.Compact(assignment.DependsOn)
	}
	if len(errs) > 0 {
		return errs
	}
	if cycle := findCycle(selected); cycle != nil {
		first := selected[cycle[0]]
		errs = append(errs, first.Bundle.Document.Errorf("spec.dependsOn", "cluster %q: bundles depend on each other in a circle: %s; remove one dependency",
			first.Cluster, joinArrow(cycle)))
	}
	return errs
}

func resolve(dependency v1alpha1.Dependency, self string, selected map[string]*Assignment, kept map[string]bool) ([]string, error) {
	if dependency.Bundle != "" {
		if selected[dependency.Bundle] == nil && !kept[dependency.Bundle] {
			return nil, fmt.Errorf("depends on %q, which this cluster does not get; give it to the cluster, or skip this bundle there", dependency.Bundle)
		}
		return []string{dependency.Bundle}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(dependency.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	var names []string
	for name, candidate := range selected {
		if name != self && selector.Matches(labels.Set(candidate.Bundle.Metadata.Labels)) {
			names = append(names, name)
		}
	}
	return names, nil
}

// findCycle returns the names along a cycle, the first one again at the end; nil when there is none.
func findCycle(selected map[string]*Assignment) []string {
	const visiting, done = 1, 2
	state := map[string]int{}
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		if state[name] == done || selected[name] == nil { // kept bundles are no assignments
			return nil
		}
		path = append(path, name)
		if state[name] == visiting {
			return slices.Clone(path[slices.Index(path, name):])
		}
		state[name] = visiting
		for _, next := range selected[name].DependsOn {
			if cycle := visit(next); cycle != nil {
				return cycle
			}
		}
		state[name], path = done, path[:len(path)-1]
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(selected)) {
		if cycle := visit(name); cycle != nil {
			return cycle
		}
	}
	return nil
}

func joinArrow(names []string) string {
	out := names[0]
	for _, name := range names[1:] {
		out += " → " + name
	}
	return out
}
