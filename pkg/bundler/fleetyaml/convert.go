package fleetyaml

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
)

func (c *converter) convert() {
	c.out.Metadata = v1alpha1.Metadata{Name: c.in.Name, Labels: c.in.Labels}
	c.origins["metadata.name"], c.origins["metadata.labels"] = "name", "labels"
	c.namespace()
	c.source()
	c.targets()
	c.ignored()
	c.dependencies()
	c.drift()
	c.removal()
	c.others()
}

func (c *converter) namespace() {
	field := "defaultNamespace"
	c.out.Spec.Namespace = c.in.DefaultNamespace
	if c.in.Namespace != "" {
		field, c.out.Spec.Namespace = "namespace", c.in.Namespace
		c.warnOnce(field, "objects that name another namespace keep it, and cluster-scoped objects are allowed; "+
			"to forbid both set restrict.namespaces of the source")
	}
	c.origins["spec.namespace"] = field
	c.out.Spec.NamespaceLabels, c.out.Spec.NamespaceAnnotations = c.in.NamespaceLabels, c.in.NamespaceAnnotations
	if c.in.CreateNamespace != nil && !*c.in.CreateNamespace {
		c.warn("createNamespace", "the namespace is created where it is absent")
	}
}

// unsupportedNamespace reports what customizations cannot say; field ends in a dot.
func (c *converter) unsupportedNamespace(field string, in options) {
	const act = "is not supported for some of the clusters only; set it for the whole bundle, or make two bundles"
	if len(in.NamespaceLabels) > 0 {
		c.refuse(field+"namespaceLabels", act)
	}
	if len(in.NamespaceAnnotations) > 0 {
		c.refuse(field+"namespaceAnnotations", act)
	}
}

// source says what the bundle is made of: a chart, a kustomization or manifests, or a chart and a kustomization that
// changes what it renders.
func (c *converter) source() {
	if c.hasChart() {
		c.helm()
	} else {
		c.helmWithoutChart()
	}
	switch {
	case c.in.Kustomize != nil && c.in.Kustomize.Dir != "":
		c.kustomize(c.in.Kustomize.Dir)
	case c.hasChart() && c.holds("kustomization.yaml"), c.in.Kustomize != nil && c.holds("kustomization.yaml"):
		c.kustomize("")
	}
	if overlays := c.overlays("yaml.overlays", c.in.YAML); len(overlays) > 0 {
		c.out.Spec.Manifests = &v1alpha1.Manifests{Overlays: overlays}
		c.origins["spec.manifests.overlays"] = "yaml.overlays"
	}
}

func (c *converter) hasChart() bool {
	in := c.in.Helm
	return in != nil && (in.Chart != "" || in.Repo != "") || c.holds("Chart.yaml")
}

func (c *converter) kustomize(dir string) {
	c.out.Spec.Kustomize = &v1alpha1.Kustomize{Path: dir}
	c.origins["spec.kustomize.path"] = "kustomize.dir"
	if c.out.Spec.Helm != nil {
		c.postRendered("kustomize")
	}
}

// postRendered says what a chart that a kustomization changes afterwards is here.
func (c *converter) postRendered(field string) {
	if c.out.Spec.Helm.Install == v1alpha1.InstallApply {
		return
	}
	c.out.Spec.Helm.Install = v1alpha1.InstallApply
	c.warn(field, "the chart is rendered at publish, and what the kustomization makes of it is applied: there is no Helm release on the clusters")
}

// plain says whether the bundle is manifests only, as far as is known.
func (c *converter) plain() bool {
	spec := c.out.Spec
	return spec.Helm == nil && spec.Kustomize == nil && !c.holds("Chart.yaml") && !c.holds("kustomization.yaml")
}

func (c *converter) overlays(field string, in *yamlOptions) []string {
	if in == nil || len(in.Overlays) == 0 {
		return nil
	}
	if !c.plain() {
		c.refuse(field, "is for plain manifests; overlays of charts and kustomizations are not supported, remove them")
		return nil
	}
	return in.Overlays
}

// chart says where the chart is. What is wrong with it is said here, in Fleet's words.
func (c *converter) chart(in *helmOptions, out *v1alpha1.Helm) {
	out.Chart, out.Repository, out.Version = in.Chart, in.Repo, in.Version
	getter := strings.Contains(in.Chart, "::") || strings.HasPrefix(in.Chart, "git@") || strings.HasPrefix(in.Chart, "github.com/") ||
		strings.Contains(in.Chart, "://") && !strings.HasPrefix(in.Chart, "oci://") && !strings.HasPrefix(in.Chart, "https://") && !strings.HasPrefix(in.Chart, "http://")
	switch {
	case getter:
		c.refuse("helm.chart", "charts are read from the source, from chart repositories, from OCI registries and as packed charts over https; make the Git repository a source of its own")
		out.Chart = ""
		return
	case strings.HasPrefix(in.Repo, "oci://") && in.Chart == "":
		// Fleet takes the whole reference of a chart in a registry for its repository.
		out.Chart, out.Repository = in.Repo, ""
	}
	_, remote, err := chartref.Parse(*out)
	switch {
	case strings.Contains(out.Chart, "://") && !strings.HasPrefix(out.Chart, "oci://") && in.Version != "":
		c.warn("helm.version", "has no effect: the chart's URL names one version")
		out.Version = ""
	case err != nil:
		field := "helm.chart"
		if in.Repo != "" {
			field = "helm.repo"
		}
		c.refuse(field, "%v", err)
	case !remote && in.Version != "":
		c.warn("helm.version", "is for charts of repositories; a chart inside of the source has its version in Chart.yaml")
		out.Version = ""
	}
}

func (c *converter) helm() {
	c.out.Spec.Helm = &v1alpha1.Helm{}
	in := c.in.Helm
	if in == nil {
		return
	}
	c.origins["spec.helm"] = "helm"
	c.origins["spec.helm.repository"] = "helm.repo"
	c.origins["spec.helm.timeout"] = "helm.timeoutSeconds"
	helm := &v1alpha1.Helm{
		ReleaseName: in.ReleaseName,
		HelmOptions: v1alpha1.HelmOptions{TakeOwnership: in.TakeOwnership, Atomic: in.Atomic, MaxHistory: in.MaxHistory},
	}
	c.chart(in, helm)
	if in.TimeoutSeconds > 0 {
		helm.Timeout = metav1.Duration{Duration: time.Duration(in.TimeoutSeconds) * time.Second}
	}
	helm.Values, helm.ValuesFiles = c.values("helm", in)
	helm.TemplateValues = c.templateValues("helm", in)
	helm.ValuesFrom = c.valuesFrom(in)
	c.out.Spec.Helm = helm
	c.out.Spec.Force = in.Force
	if in.WaitForJobs {
		c.warn("helm.waitForJobs", "has no equal; dependent bundles wait until Jobs are complete anyway")
	}
	if in.SkipSchemaValidation {
		c.warn("helm.skipSchemaValidation", "has no equal; values that break the chart's schema fail at publish")
	}
}

func (c *converter) valuesFrom(in *helmOptions) []v1alpha1.ValuesReference {
	var out []v1alpha1.ValuesReference
	reference := func(field string, in *keyReference) *v1alpha1.KeyReference {
		if in.Namespace != "" && in.Namespace != c.out.Spec.Namespace {
			c.refuse(field+".namespace", "values are read in the bundle's namespace only; copy the object there and remove the field")
		}
		c.origins[place("spec.helm.valuesFrom", len(out))] = field
		return &v1alpha1.KeyReference{Name: in.Name, Key: in.Key}
	}
	for i, from := range in.ValuesFrom {
		field := place("helm.valuesFrom", i)
		if from.ConfigMapKeyRef != nil {
			out = append(out, v1alpha1.ValuesReference{ConfigMapKeyRef: reference(field+".configMapKeyRef", from.ConfigMapKeyRef)})
		}
		if from.SecretKeyRef != nil {
			out = append(out, v1alpha1.ValuesReference{SecretKeyRef: reference(field+".secretKeyRef", from.SecretKeyRef)})
		}
	}
	if len(out) > 0 && len(in.Values)+len(in.ValuesFiles)+len(in.TemplateValues) > 0 {
		c.warn("helm.valuesFrom", "helm.values and files win over values that are read on the cluster, in Fleet they don't; remove keys from helm.values that both set")
	}
	return out
}

// helmWithoutChart keeps the options that hold for every kind of bundle: Fleet makes a chart of each.
func (c *converter) helmWithoutChart() {
	in := c.in.Helm
	if in == nil {
		return
	}
	c.out.Spec.Force = in.Force
	if in.TimeoutSeconds > 0 {
		c.out.Spec.Health.Timeout = metav1.Duration{Duration: time.Duration(in.TimeoutSeconds) * time.Second}
		c.origins["spec.health.timeout"] = "helm.timeoutSeconds"
	}
	const act = "has no effect: the folder holds no chart, and its objects are applied without a Helm release"
	for field, set := range map[string]bool{
		"releaseName": in.ReleaseName != "", "values": len(in.Values) > 0, "valuesFiles": len(in.ValuesFiles) > 0,
		"valuesFrom": len(in.ValuesFrom) > 0, "templateValues": len(in.TemplateValues) > 0, "atomic": in.Atomic,
		"maxHistory": in.MaxHistory != 0, "takeOwnership": in.TakeOwnership,
	} {
		if set {
			c.warn("helm."+field, act)
		}
	}
}

func (c *converter) dependencies() {
	for i, in := range c.in.DependsOn {
		field := place("dependsOn", i)
		add := func(origin string, dependency v1alpha1.Dependency) {
			at := place("spec.dependsOn", len(c.out.Spec.DependsOn))
			c.origins[at], c.origins[at+".bundle"] = field, field+origin
			c.out.Spec.DependsOn = append(c.out.Spec.DependsOn, dependency)
		}
		if in.Name == "" && in.Selector == nil {
			c.refuse(field, "names nothing; set name or selector")
		}
		if in.Name != "" {
			add(".name", v1alpha1.Dependency{Bundle: in.Name})
		}
		if in.Selector != nil {
			add(".selector", v1alpha1.Dependency{Selector: in.Selector})
		}
		if len(in.AcceptedStates) > 0 && !slices.Equal(in.AcceptedStates, []string{"Ready"}) {
			c.warn(field+".acceptedStates", "has no equal; the bundle waits until what it depends on is ready")
		}
	}
}

// removal says what stays behind. Fleet keeps namespaces and custom resource definitions unless told otherwise.
func (c *converter) removal() {
	prune := &c.out.Spec.Prune
	if c.in.KeepResources {
		never := false
		prune.Enabled = &never
		c.warn("keepResources", "also keeps objects that leave the bundle while it stays on a cluster")
	}
	prune.KeepNamespace = !c.in.DeleteNamespace
	if !c.in.DeleteCRDResources {
		prune.Keep = []v1alpha1.KeepRule{{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"}}
	}
}

func (c *converter) others() {
	if c.in.ServiceAccount != "" {
		c.out.Spec.ServiceAccount = c.in.ServiceAccount
		c.origins["spec.serviceAccount"] = "serviceAccount"
		c.warn("serviceAccount", "is looked for in the bundle's namespace, not in the agent's")
	}
	c.out.Spec.Paused = c.in.Paused
	c.origins["spec.paused"] = "paused"
	c.rollout()
	if in := c.in.Ignore; in != nil {
		c.out.Spec.Health.IgnoreConditions = in.Conditions
		c.origins["spec.health.ignoreConditions"] = "ignore.conditions"
	}
	if c.in.ForceSyncGeneration != 0 {
		c.warn("forceSyncGeneration", "has no equal; agents compare with the live objects")
	}
	if len(c.in.DownstreamResources) > 0 {
		c.refuse("downstreamResources", "is not supported: there is no hub to copy from; bring the objects to the clusters another way, and remove the field")
	}
	if len(c.in.ImageScans) > 0 {
		c.warn("imageScans", "has no equal: Pinnace never writes to Git; let a bot update images there")
	}
}
