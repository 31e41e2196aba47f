package fleetyaml

import (
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func place(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// entry is a customization and where it stands.
type entry struct {
	customization
	field string
}

// entries returns those that select anything: to Fleet a rule without a word selects nothing.
func (c *converter) entries() []entry {
	var out []entry
	add := func(list string, in []customization) {
		for i, one := range in {
			field := place(list, i)
			if one.selectsNothing() {
				c.warn(field, "selects no cluster, and is left out; set clusterName, clusterGroup or clusterSelector ({} selects all)")
				continue
			}
			out = append(out, entry{one, field})
		}
	}
	add("targets", c.in.Targets)
	add("targetCustomizations", c.in.TargetCustomizations)
	return out
}

func (s selection) selectsNothing() bool {
	return s.ClusterName == "" && s.ClusterGroup == "" && s.ClusterSelector == nil && s.ClusterGroupSelector == nil
}

// rule never insists on a cluster: Fleet doesn't.
func (c *converter) rule(in selection) v1alpha1.TargetRule {
	return v1alpha1.TargetRule{
		ClusterName: in.ClusterName, ClusterGroup: in.ClusterGroup, ClusterSelector: in.ClusterSelector,
		ClusterGroupSelector: in.ClusterGroupSelector, AllowEmpty: in.ClusterName == "",
	}
}

func (c *converter) targets() {
	c.overrideTargets()
	entries := c.entries()
	if len(entries) == 0 {
		return
	}
	c.out.Spec.OverrideMode = v1alpha1.OverrideFirst
	if c.in.TargetCustomizationMode == "AllMatches" {
		c.out.Spec.OverrideMode = v1alpha1.OverrideMerge
	}
	c.origins["spec.overrideMode"] = "targetCustomizationMode"
	c.overlaidKustomization(entries)
	for _, entry := range entries {
		c.override(entry)
	}
	c.skipOthers(entries)
}

func (c *converter) overrideTargets() {
	for i, in := range c.in.OverrideTargets {
		field := place("overrideTargets", i)
		if in.selectsNothing() {
			c.warn(field, "selects no cluster, and is left out; set clusterName, clusterGroup or clusterSelector ({} selects all)")
			continue
		}
		rule := c.rule(in)
		rule.Name = in.Name
		c.origins[place("spec.targets", len(c.out.Spec.Targets))] = field
		c.out.Spec.Targets = append(c.out.Spec.Targets, rule)
	}
	if c.in.OverrideTargets != nil && len(c.out.Spec.Targets) == 0 {
		c.refuse("overrideTargets", "selects no cluster; name one, or remove the field to deploy to the source's targets")
	}
}

func (c *converter) override(in entry) {
	at := place("spec.overrides", len(c.out.Spec.Overrides))
	c.origins[at], c.origins[at+".when"] = in.field, in.field
	c.origins[at+".values"] = in.field + ".helm.values"
	c.origins[at+".templateValues"] = in.field + ".helm.templateValues"
	c.origins[at+".kustomize.path"] = in.field + ".kustomize.dir"
	c.origins[at+".overlays"] = in.field + ".yaml.overlays"
	out := v1alpha1.Override{Name: in.Name, When: c.rule(in.selection), Skip: in.DoNotDeploy}
	if !in.DoNotDeploy {
		c.customize(&out, in)
	}
	c.out.Spec.Overrides = append(c.out.Spec.Overrides, out)
}

func (c *converter) customize(out *v1alpha1.Override, in entry) {
	out.Namespace = in.Namespace
	if in.Namespace == "" && in.DefaultNamespace != "" {
		if c.in.Namespace != "" {
			c.warn(in.field+".defaultNamespace", "has no effect beside namespace")
		} else {
			out.Namespace = in.DefaultNamespace
		}
	}
	if in.Kustomize != nil && in.Kustomize.Dir != "" {
		out.Kustomize = &v1alpha1.Kustomize{Path: in.Kustomize.Dir}
	}
	out.Overlays = c.overlays(in.field+".yaml.overlays", in.YAML)
	c.customizeHelm(out, in)
	c.unsupportedNamespace(in.field+".", in.options)
	for _, option := range []struct {
		field string
		set   bool
	}{
		{"serviceAccount", in.ServiceAccount != ""},
		{"diff", in.Diff != nil},
		{"ignore", in.Ignore != nil},
		{"correctDrift", in.CorrectDrift != nil},
		{"keepResources", in.KeepResources},
		{"deleteNamespace", in.DeleteNamespace},
		{"deleteCRDResources", in.DeleteCRDResources},
		{"downstreamResources", len(in.DownstreamResources) > 0},
	} {
		if option.set {
			c.refuse(in.field+"."+option.field, "is not supported for some of the clusters only; set it for the whole bundle, or make two bundles")
		}
	}
	if in.ForceSyncGeneration != 0 {
		c.warn(in.field+".forceSyncGeneration", "has no equal; agents compare with the live objects")
	}
}

func (c *converter) customizeHelm(out *v1alpha1.Override, in entry) {
	helm, field := in.Helm, in.field+".helm"
	if helm == nil {
		return
	}
	top := helmOptions{}
	if c.in.Helm != nil {
		top = *c.in.Helm
	}
	for name, differs := range map[string]bool{
		"chart": helm.Chart != "" && helm.Chart != top.Chart, "repo": helm.Repo != "" && helm.Repo != top.Repo,
		"version": helm.Version != "" && helm.Version != top.Version,
	} {
		if differs {
			c.refuse(field+"."+name, "another chart, or version of it, for some of the clusters is not supported; make two bundles, and let targets select the clusters of each")
		}
	}
	for _, option := range []struct {
		field string
		set   bool
	}{
		{"releaseName", helm.ReleaseName != "" && (c.in.Helm == nil || helm.ReleaseName != c.in.Helm.ReleaseName)},
		{"valuesFrom", len(helm.ValuesFrom) > 0},
		{"timeoutSeconds", helm.TimeoutSeconds > 0},
		{"maxHistory", helm.MaxHistory != 0},
		{"force", helm.Force},
		{"takeOwnership", helm.TakeOwnership},
		{"atomic", helm.Atomic},
		{"disablePreProcess", helm.DisablePreProcess && (c.in.Helm == nil || !c.in.Helm.DisablePreProcess)},
	} {
		if option.set {
			c.refuse(field+"."+option.field, "is not supported for some of the clusters only; set it for the whole bundle, or make two bundles")
		}
	}
	values, files := c.values(field, helm)
	if len(files) > 0 {
		values = c.fileValues(field, nil, files)
	}
	if len(values) > 0 {
		out.Values = values
	}
	out.TemplateValues = c.templateValues(field, helm)
}

// overlaidKustomization: customizations may be all that names a kustomization.
func (c *converter) overlaidKustomization(entries []entry) {
	if c.out.Spec.Helm != nil {
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Kustomize != nil && e.Kustomize.Dir != "" && !e.DoNotDeploy }) {
			c.postRendered("targetCustomizations")
		}
		return
	}
	if c.out.Spec.Kustomize != nil {
		return
	}
	first := ""
	for _, entry := range entries {
		if entry.Kustomize != nil && entry.Kustomize.Dir != "" && !entry.DoNotDeploy {
			first = entry.Kustomize.Dir
			break
		}
	}
	switch {
	case first == "":
		return
	case c.holds("kustomization.yaml"):
		first = ""
	}
	c.out.Spec.Kustomize = &v1alpha1.Kustomize{Path: first}
}

// skipOthers keeps the bundle from clusters without a kustomization. Fleet would send them the folder's raw files.
func (c *converter) skipOthers(entries []entry) {
	spec := &c.out.Spec
	if spec.Kustomize == nil || c.in.Kustomize != nil && c.in.Kustomize.Dir != "" || c.holds("kustomization.yaml") {
		return
	}
	if spec.OverrideMode == v1alpha1.OverrideMerge {
		c.refuse("targetCustomizationMode", "with AllMatches and kustomize.dir in customizations the bundle itself needs a kustomize.dir; set it, or use FirstMatch")
		return
	}
	for i, entry := range entries {
		if !entry.DoNotDeploy && spec.Overrides[i].Kustomize == nil {
			c.refuse(entry.field, "sets no kustomize.dir, and neither does the bundle; set one of them")
		}
	}
	c.warn("targetCustomizations", "clusters that none selects don't get the bundle: there is no kustomization for them")
	spec.Overrides = append(spec.Overrides, v1alpha1.Override{
		Name: "no kustomization", When: v1alpha1.TargetRule{AllowEmpty: true}, Skip: true,
	})
}
