package target

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
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

	// What holds after overrides and templates, when Selected.
	Namespace string
	Values    v1alpha1.Values
	Variables map[string]string
	Kustomize string
	DependsOn []string
}

// Variant is what of an assignment changes the bundle's bytes. Clusters whose variants are equal share an artifact.
type Variant struct {
	Values    v1alpha1.Values `json:"values,omitempty"` // only of charts that the builder renders
	Kustomize string          `json:"kustomize,omitempty"`
}

// Variant returns what of the assignment changes the bundle's bytes.
func (a Assignment) Variant() Variant {
	variant := Variant{Kustomize: a.Kustomize}
	if helm := a.Bundle.Spec.Helm; helm != nil && helm.Install == v1alpha1.InstallApply {
		variant.Values = a.Values
	}
	return variant
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

// Plan computes every cluster's assignments, sorted by cluster. It returns all findings at once.
func (f *Fleet) Plan() ([]ClusterPlan, error) {
	var (
		plans  []ClusterPlan
		errs   []error
		engine templates
	)
	for _, cluster := range f.Clusters {
		plan := ClusterPlan{Cluster: cluster}
		data := templateData(cluster)
		for i := range f.Bundles {
			assignment, err := f.assign(&engine, cluster, &f.Bundles[i], data)
			if err != nil {
				errs = append(errs, err)
			}
			plan.Assignments = append(plan.Assignments, assignment)
		}
		errs = append(errs, resolveDependencies(plan.Assignments)...)
		plans = append(plans, plan)
	}
	return plans, errors.Join(errs...)
}

func (f *Fleet) assign(engine *templates, cluster Cluster, bundle *Bundle, data map[string]any) (Assignment, error) {
	out := Assignment{Cluster: cluster.Metadata.Name, Bundle: bundle}
	for _, rule := range bundle.Targets {
		matched, why, err := f.match(rule, cluster)
		if err != nil {
			return out, bundle.Document.Errorf("spec.targets", "%v", err)
		}
		if matched {
			out.Selected, out.Why = true, why
			break
		}
		if out.Why != "" {
			out.Why += "; "
		}
		out.Why += why
	}
	if !out.Selected {
		return out, nil
	}

	spec := &bundle.Spec
	out.Namespace = spec.Namespace
	values, variables := v1alpha1.Values{}, maps.Clone(spec.Variables)
	if spec.Helm != nil {
		values = spec.Helm.Values.DeepCopy()
	}
	if spec.Kustomize != nil {
		out.Kustomize = spec.Kustomize.Path
	}
	for i, override := range spec.Overrides {
		matched, _, err := f.match(override.When, cluster)
		if err != nil {
			return out, bundle.Document.Errorf(fmt.Sprintf("spec.overrides[%d].when", i), "%v", err)
		}
		if !matched {
			continue
		}
		name := override.Name
		if name == "" {
			name = fmt.Sprintf("overrides[%d]", i)
		}
		out.Overrides = append(out.Overrides, name)
		if override.Skip {
			out.Selected, out.Why = false, "skipped by override "+name
			return out, nil
		}
		if override.Namespace != "" {
			out.Namespace = override.Namespace
		}
		if override.Kustomize != nil {
			out.Kustomize = override.Kustomize.Path
		}
		values = merge(values, override.Values)
		if len(override.Variables) > 0 && variables == nil {
			variables = map[string]string{}
		}
		maps.Copy(variables, override.Variables)
		if spec.OverrideMode == v1alpha1.OverrideFirst {
			break
		}
	}

	var err error
	if out.Values, err = engine.values(values, "spec.helm.values", data); err == nil {
		out.Variables, err = engine.strings(variables, "spec.variables", data)
	}
	var failed *templateError
	if errors.As(err, &failed) {
		return out, bundle.Document.Errorf(failed.path, "bundle %q for cluster %q: %v; set it in the cluster's spec.values, or use: | default", bundle.Metadata.Name, cluster.Metadata.Name, failed)
	}
	return out, err
}

// merge returns base with over merged over it: maps by key, everything else replaced, null removes.
func merge(base, over map[string]any) map[string]any {
	if len(over) == 0 {
		return base
	}
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for key, value := range over {
		if value == nil {
			delete(out, key)
			continue
		}
		below, isMap := out[key].(map[string]any)
		above, overMap := value.(map[string]any)
		if isMap && overMap {
			out[key] = merge(below, above)
		} else {
			out[key] = value
		}
	}
	return out
}

// resolveDependencies turns each assignment's dependsOn into names of bundles that the cluster gets, and refuses cycles.
func resolveDependencies(assignments []Assignment) []error {
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
			names, err := resolve(dependency, name, selected)
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

func resolve(dependency v1alpha1.Dependency, self string, selected map[string]*Assignment) ([]string, error) {
	if dependency.Bundle != "" {
		if selected[dependency.Bundle] == nil {
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
		if state[name] == done {
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
