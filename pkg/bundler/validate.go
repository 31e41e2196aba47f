package bundler

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/util/validation"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/health"
)

// maxReleaseName is Helm's: the name ends up in labels, with suffixes.
const maxReleaseName = 53

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check collects findings, each at its place in the bundle's file.
type check struct {
	found    Found
	findings []error
}

func (c *check) report(path, format string, args ...any) {
	c.findings = append(c.findings, c.found.Document.Errorf(path, format, args...))
}

// validate finds what decoding allows but makes no sense. All findings are returned at once.
func (f Found) validate() error {
	c := &check{found: f}
	spec := f.Bundle.Spec
	if spec.Namespace != "" {
		if problems := validation.IsDNS1123Label(spec.Namespace); len(problems) > 0 {
			c.report("spec.namespace", "%q is no name for a namespace: %s", spec.Namespace, problems[0])
		}
	}
	var set []string
	for name, is := range map[string]bool{"helm": spec.Helm != nil, "kustomize": spec.Kustomize != nil, "manifests": spec.Manifests != nil} {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	if len(set) > 1 && !slices.Equal(set, []string{"helm", "kustomize"}) {
		c.report("spec."+set[1], "a bundle is one of helm, kustomize and manifests, or helm with kustomize after it, not %s; remove the others", strings.Join(set, " and "))
	} else {
		c.helm(spec.Helm)
		c.kustomize("spec.kustomize.path", spec.Kustomize)
		c.manifests(spec.Manifests)
	}
	c.images(spec)
	c.variables("spec.variables", spec.Variables)
	c.variablesFrom("spec.variablesFrom", spec.VariablesFrom)
	c.dependencies(spec.DependsOn)
	c.overrides(spec)
	c.options(spec.DeployOptions)
	return errors.Join(c.findings...)
}

func (c *check) helm(helm *v1alpha1.Helm) {
	if helm == nil {
		return
	}
	if problems := validation.IsDNS1123Subdomain(helm.ReleaseName); len(problems) > 0 {
		c.report("spec.helm.releaseName", "%q is no name for a release: %s", helm.ReleaseName, problems[0])
	} else if len(helm.ReleaseName) > maxReleaseName {
		c.report("spec.helm.releaseName", "%q has more than %d characters; set a shorter spec.helm.releaseName", helm.ReleaseName, maxReleaseName)
	}
	c.chart(*helm)
	for i, from := range helm.ValuesFrom {
		place := fmt.Sprintf("spec.helm.valuesFrom[%d]", i)
		reference := from.SecretKeyRef
		if reference == nil {
			reference = from.ConfigMapKeyRef
		}
		switch {
		case (from.SecretKeyRef == nil) == (from.ConfigMapKeyRef == nil):
			c.report(place, "set exactly one of secretKeyRef and configMapKeyRef")
		case reference.Name == "":
			c.report(place, "the reference has no name")
		}
	}
	if helm.Install == v1alpha1.InstallApply && len(helm.ValuesFrom) > 0 {
		c.report("spec.helm.valuesFrom", "is read on the cluster, but install: apply renders before; use install: release")
	}
	if helm.Install == v1alpha1.InstallRelease && c.found.postRendered() {
		c.report("spec.helm.install", "a release is made on the cluster of the chart itself, which no kustomization changes there; use install: apply")
	}
}

func (c *check) chart(helm v1alpha1.Helm) {
	switch _, remote, err := chartref.Parse(helm); {
	case err != nil:
		c.report("spec.helm.chart", "%v", err)
		return
	case remote:
		return
	}
	folder, err := c.found.folder().Below(helm.Chart)
	if err != nil {
		c.report("spec.helm.chart", "%v", err)
		return
	}
	if _, err := folder.File(chartFile); err != nil {
		c.report("spec.helm.chart", "there is no %s/%s; name the chart's folder, or its helm.repository", folder.Path, chartFile)
	}
	if helm.Version != "" {
		c.report("spec.helm.version", "is for charts of repositories; a chart in the source has its version in %s/%s", folder.Path, chartFile)
	}
}

func (c *check) images(spec v1alpha1.BundleSpec) {
	for i, rule := range spec.ImageRules {
		place := fmt.Sprintf("spec.imageRules[%d]", i)
		if rule.Kind == "" || len(rule.Paths) == 0 {
			c.report(place, "needs kind and paths")
		}
		for _, text := range rule.Paths {
			if _, err := render.ParsePath(text); err != nil {
				c.report(place+".paths", "%v", err)
			}
		}
	}
	for i, image := range spec.ExtraImages {
		if _, err := reference.ParseNormalizedNamed(image); err != nil {
			c.report(fmt.Sprintf("spec.extraImages[%d]", i), "%q is no image: %v", image, err)
		}
	}
}

func (c *check) kustomize(place string, kustomize *v1alpha1.Kustomize) {
	if kustomize == nil {
		return
	}
	folder, err := c.found.folder().Below(kustomize.Path)
	if err != nil {
		c.report(place, "%v", err)
		return
	}
	if !slices.ContainsFunc(render.KustomizationFiles, func(name string) bool { _, err := folder.File(name); return err == nil }) {
		c.report(place, "there is no kustomization.yaml in %s", folder.Path)
	}
}

func (c *check) manifests(manifests *v1alpha1.Manifests) {
	if manifests == nil {
		return
	}
	for field, globs := range map[string][]string{"include": manifests.Include, "exclude": manifests.Exclude} {
		for i, glob := range globs {
			if !doublestar.ValidatePattern(glob) {
				c.report(fmt.Sprintf("spec.manifests.%s[%d]", field, i), "%q is no valid glob", glob)
			}
		}
	}
	c.overlays("spec.manifests.overlays", manifests.Overlays)
}

func (c *check) overlays(place string, overlays []string) {
	for i, name := range overlays {
		folder, err := c.found.folder().Below(path.Join(render.OverlaysDir, name))
		if err != nil {
			c.report(fmt.Sprintf("%s[%d]", place, i), "%v", err)
			continue
		}
		if files, err := folder.Files(); err != nil || len(files) == 0 {
			c.report(fmt.Sprintf("%s[%d]", place, i), "there is no file in %s", folder.Path)
		}
	}
}

func (c *check) variables(place string, variables map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if !variableName.MatchString(name) {
			c.report(place+"["+name+"]", "%q is no name for a variable; use letters, digits and _", name)
		}
	}
	if len(variables) > 0 && c.found.Method() == v1alpha1.MethodRelease {
		c.report(place, "variables are replaced in manifests, not in Helm releases; use values, or spec.helm.install: apply")
	}
}

func (c *check) dependencies(dependencies []v1alpha1.Dependency) {
	for i, dependency := range dependencies {
		place := fmt.Sprintf("spec.dependsOn[%d]", i)
		switch {
		case dependency.Bundle == "" && dependency.Selector == nil:
			c.report(place, "names nothing; set bundle or selector")
		case dependency.Bundle != "" && dependency.Selector != nil:
			c.report(place, "sets bundle and selector; keep one")
		case dependency.Bundle == c.found.Bundle.Metadata.Name:
			c.report(place, "the bundle depends on itself")
		}
	}
}

func (c *check) overrides(spec v1alpha1.BundleSpec) {
	for i, override := range spec.Overrides {
		place := fmt.Sprintf("spec.overrides[%d]", i)
		if override.Values != nil && spec.Helm == nil {
			c.report(place+".values", "values are for Helm charts, and this bundle is none; use variables")
		}
		if override.TemplateValues != nil && spec.Helm == nil {
			c.report(place+".templateValues", "values are for Helm charts, and this bundle is none; use variables")
		}
		if override.Kustomize != nil && spec.Kustomize == nil && spec.Helm == nil {
			c.report(place+".kustomize", "this bundle is no kustomization; set spec.kustomize.path too")
		}
		if overlays(override) && spec.Manifests == nil {
			c.report(place+".overlays", "overlays are for plain manifests, and this bundle is something else; remove them")
		} else {
			c.overlays(place+".overlays", override.Overlays)
		}
		if spec.Kustomize != nil || spec.Helm != nil {
			c.kustomize(place+".kustomize.path", override.Kustomize)
		}
		if override.Namespace != "" {
			if problems := validation.IsDNS1123Label(override.Namespace); len(problems) > 0 {
				c.report(place+".namespace", "%q is no name for a namespace: %s", override.Namespace, problems[0])
			}
		}
		c.variables(place+".variables", override.Variables)
	}
}

func (c *check) options(options v1alpha1.DeployOptions) {
	for i, ignored := range options.Drift.Ignore {
		place := fmt.Sprintf("spec.drift.ignore[%d].jsonPointers", i)
		if len(ignored.JSONPointers) == 0 {
			c.report(place, "names no field; add one, such as /spec/replicas")
		}
		for _, pointer := range ignored.JSONPointers {
			if !strings.HasPrefix(pointer, "/") {
				c.report(place, "%q is no JSON pointer; write it like /spec/replicas", pointer)
			}
		}
	}
	for i, condition := range options.Health.IgnoreConditions {
		if len(condition) == 0 {
			c.report(fmt.Sprintf("spec.health.ignoreConditions[%d]", i), "would ignore every condition; name a type, such as {type: Ready}")
		}
	}
	rules := health.NewRules()
	for i, check := range options.Health.Checks {
		if check.APIVersion == "" || check.Kind == "" || check.Ready == "" {
			c.report(fmt.Sprintf("spec.health.checks[%d]", i), "needs apiVersion, kind and ready")
		} else if err := rules.Compile([]v1alpha1.HealthCheck{check}); err != nil {
			c.report(fmt.Sprintf("spec.health.checks[%d].ready", i), "%v", err)
		}
	}
	if options.Health.Timeout.Duration < 0 {
		c.report("spec.health.timeout", "is negative")
	}
	c.windows("spec.windows", options.Windows)
}
