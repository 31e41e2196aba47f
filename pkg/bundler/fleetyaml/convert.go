package fleetyaml

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
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
		c.warn(field, "objects that name another namespace keep it, and cluster-scoped objects are allowed; "+
			"to forbid both set restrict.namespaces of the source")
	}
	c.origins["spec.namespace"] = field
	c.unsupportedNamespace("", c.in.options)
}

// unsupportedNamespace reports what may stand at the top and in customizations; prefix ends in a dot.
func (c *converter) unsupportedNamespace(prefix string, in options) {
	const act = "is not supported; add a v1 Namespace with them to the bundle"
	if len(in.NamespaceLabels) > 0 {
		c.refuse(prefix+"namespaceLabels", act)
	}
	if len(in.NamespaceAnnotations) > 0 {
		c.refuse(prefix+"namespaceAnnotations", act)
	}
	if in.CreateNamespace != nil && !*in.CreateNamespace {
		c.refuse(prefix+"createNamespace", "the namespace is always created when it is absent; remove the field")
	}
}

// source says what the bundle is made of: a chart, a kustomization or manifests.
func (c *converter) source() {
	chart := c.in.Helm != nil && c.in.Helm.Chart != "" || c.holds("Chart.yaml")
	kustomization := c.in.Kustomize != nil && c.in.Kustomize.Dir != "" || c.holds("kustomization.yaml")
	if chart && kustomization {
		field := "helm"
		if c.in.Kustomize != nil {
			field = "kustomize"
		}
		c.refuse(field, "a chart that a kustomization changes afterwards is not supported; render the chart into the repository, or drop the kustomization")
		return
	}
	switch {
	case c.remote("helm", c.in.Helm):
	case chart:
		c.helm()
	default:
		c.helmWithoutChart()
		if kustomization && c.in.Kustomize != nil {
			c.out.Spec.Kustomize = &v1alpha1.Kustomize{Path: c.in.Kustomize.Dir}
			c.origins["spec.kustomize.path"] = "kustomize.dir"
		}
	}
	if overlays := c.overlays("yaml.overlays", c.in.YAML); len(overlays) > 0 {
		c.out.Spec.Manifests = &v1alpha1.Manifests{Overlays: overlays}
		c.origins["spec.manifests.overlays"] = "yaml.overlays"
	}
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

// remote reports a chart that is not in the source.
func (c *converter) remote(field string, helm *helmOptions) bool {
	if helm == nil {
		return false
	}
	const act = "only charts inside of the source are supported; copy the chart into the repository (helm pull --untar) and name its folder in helm.chart"
	switch {
	case helm.Repo != "":
		c.refuse(field+".repo", act)
	case strings.Contains(helm.Chart, "://"), strings.Contains(helm.Chart, "::"), strings.HasPrefix(helm.Chart, "git@"), strings.HasPrefix(helm.Chart, "github.com/"):
		c.refuse(field+".chart", act)
	default:
		if helm.Version != "" {
			c.warn(field+".version", "is for charts of repositories; a chart inside of the source has its version in Chart.yaml")
		}
		return false
	}
	return true
}

func (c *converter) helm() {
	in := c.in.Helm
	if in == nil {
		return
	}
	c.origins["spec.helm"] = "helm"
	c.origins["spec.helm.timeout"] = "helm.timeoutSeconds"
	helm := &v1alpha1.Helm{
		Chart: in.Chart, ReleaseName: in.ReleaseName,
		HelmOptions: v1alpha1.HelmOptions{TakeOwnership: in.TakeOwnership, Atomic: in.Atomic, MaxHistory: in.MaxHistory},
	}
	if in.TimeoutSeconds > 0 {
		helm.Timeout = metav1.Duration{Duration: time.Duration(in.TimeoutSeconds) * time.Second}
	}
	helm.Values, helm.ValuesFiles = c.values("helm", in)
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
	if c.in.Paused {
		c.refuse("paused", "is not supported; keep the bundle's last good content in Git until changes shall reach clusters, and remove the field")
	}
	if r := c.in.RolloutStrategy; r != nil {
		switch {
		case r.MaxUnavailable != nil || r.MaxUnavailablePartitions != nil || r.AutoPartitionSize != nil || len(r.Partitions) > 0:
			c.refuse("rolloutStrategy", "is not supported in a fleet.yaml: a publish reaches all clusters at once; remove the field, and stage changes by branches")
		case r.AutoPartitionThreshold != nil || r.MaxNew != nil:
			c.warn("rolloutStrategy", "maxNew and autoPartitionThreshold have no equal; they pace Fleet's controller")
		}
	}
	if in := c.in.Ignore; in != nil && len(in.Conditions) > 0 {
		c.refuse("ignore.conditions", "is not supported; say in spec.health.checks of a pinnace.yaml when such an object is ready")
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
