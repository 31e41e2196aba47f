package hostile

import (
	"fmt"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

// manifests publishes a target whose web is a well-signed bundle of that file: what a stolen bundle key can do.
func manifests(content string) func(*World) {
	return func(w *World) {
		w.publish(w.next(w.bundleOf("web", by(w.keys.bundle), map[string][]byte{"a.yaml": []byte(content)})))
	}
}

// spoiled publishes a target whose web is a well-signed bundle that is something else than the target says.
func spoiled(change func(*v1alpha1.BundleConfig, *oci.Artifact)) func(*World) {
	return func(w *World) {
		layer := must(archive.Pack("", map[string][]byte{"a.yaml": []byte(configMap("web", evil))}, archive.Limits{}))
		w.publish(w.next(w.bundleLayer("web", by(w.keys.bundle), layer, change)))
	}
}

// limited restricts the source on this agent, whatever the target says.
func limited(limit v1alpha1.Limit, content string) func(*World) {
	return func(w *World) {
		w.change = func(config *agent.Config) { config.Limits = []v1alpha1.Limit{limit} }
		manifests(content)(w)
	}
}

func bundleAttacks() []Attack {
	invalid, scope := reasons(agent.ReasonInvalidBundle), reasons(agent.ReasonOutOfScope)
	apps := v1alpha1.Limit{Source: "*", Namespaces: []string{"apps"}}
	return []Attack{
		{Name: "bundle of another name", Want: invalid, Prepare: spoiled(func(c *v1alpha1.BundleConfig, _ *oci.Artifact) { c.Name = "shop" })},
		{Name: "bundle of another source", Want: invalid, Prepare: spoiled(func(c *v1alpha1.BundleConfig, _ *oci.Artifact) { c.Source.Name = "trusted" })},
		{Name: "bundle with another layer than the target says", Want: invalid, Prepare: func(w *World) {
			web := w.bundle("web", evil)
			web.LayerDigest = w.First.Bundles[0].LayerDigest
			w.publish(w.next(web))
		}},
		{Name: "bundle with two layers", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonInvalidBundle), Prepare: spoiled(func(_ *v1alpha1.BundleConfig, a *oci.Artifact) {
			a.Layers = append(a.Layers, oci.Blob{MediaType: v1alpha1.MediaTypeBundleContent, Data: []byte(evil)})
		})},
		{Name: "bundle of another artifact type", Want: reasons(agent.ReasonDigestMismatch), Prepare: spoiled(func(_ *v1alpha1.BundleConfig, a *oci.Artifact) { a.Type = v1alpha1.ArtifactTypeTarget })},
		{Name: "layer of another media type", Want: reasons(agent.ReasonDigestMismatch, agent.ReasonInvalidBundle), Prepare: spoiled(func(_ *v1alpha1.BundleConfig, a *oci.Artifact) {
			a.Layers[0].MediaType = "application/vnd.oci.image.layer.v1.tar+gzip"
		})},
		{Name: "chart in the place of manifests", Want: invalid, Prepare: spoiled(func(c *v1alpha1.BundleConfig, a *oci.Artifact) {
			c.Method, a.Layers[0].MediaType = v1alpha1.MethodRelease, v1alpha1.MediaTypeHelmChart
		})},
		{Name: "config with a key twice", Want: reasons(agent.ReasonDigestMismatch), Prepare: spoiled(func(_ *v1alpha1.BundleConfig, a *oci.Artifact) {
			a.Config = oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: []byte(
				`{"apiVersion":"pinnace.dev/v1alpha1","kind":"BundleConfig","name":"web","name":"shop","method":"apply","source":{"name":"platform"}}`,
			)}
		})},
		{Name: "manifest without an end of annotations", Want: reasons(agent.ReasonTooLarge, agent.ReasonUnreachable, agent.ReasonDigestMismatch), Prepare: spoiledManifest},
		{Name: "YAML that aliases blow up", Bundle: true, Want: invalid, Prepare: manifests(aliasBomb())},
		{Name: "a hundred thousand documents", Bundle: true, Want: reasons(agent.ReasonTooLarge), Prepare: manifests(strings.Repeat("---\n"+configMap("a", evil), 100_000))},
		{Name: "YAML with a key twice", Bundle: true, Want: invalid, Prepare: manifests(configMap("web", evil) + "data: {text: other}\n")},
		{Name: "YAML nested deeply", Bundle: true, Want: invalid, Prepare: manifests("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: " + strings.Repeat("[", 100_000) + "\n")},
		{Name: "object without a name", Bundle: true, Want: invalid, Prepare: manifests("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}\n")},
		{Name: "object in a namespace of others", Bundle: true, Want: scope, Prepare: limited(apps, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: evil, namespace: kube-system}\n")},
		{Name: "object in a namespace of others, in a list", Bundle: true, Want: scope, Prepare: limited(apps,
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: evil, namespace: kube-system}}\n")},
		{Name: "cluster-scoped object of a tenant", Bundle: true, Want: scope, Prepare: limited(apps,
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: evil}\nrules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]\n")},
		{Name: "tenant's bundle in another namespace", Bundle: true, Want: scope, Prepare: func(w *World) {
			w.change = func(config *agent.Config) {
				config.Limits = []v1alpha1.Limit{{Source: "platform", Namespaces: []string{"app*"}}}
			}
			next := w.next(w.bundle("web", evil))
			next.Bundles[1].Namespace = "kube-system"
			w.publish(next)
		}},
		{Name: "tenant with a service account of others", Bundle: true, Want: scope, Prepare: func(w *World) {
			w.change = func(config *agent.Config) {
				config.Limits = []v1alpha1.Limit{{Source: "*", ServiceAccount: "tenant"}}
			}
			next := w.next(w.bundle("web", evil))
			next.Bundles[1].ServiceAccount = "cluster-admin"
			w.publish(next)
		}},
		{Name: "variable without a value", Bundle: true, Want: reasons(agent.ReasonVariableMissing), Prepare: func(w *World) {
			web := w.bundleOf("web", by(w.keys.bundle), map[string][]byte{"a.yaml": []byte(configMap("web", evil+"${MISSING}"))})
			web.Variables = map[string]string{"OTHER": "x"}
			w.publish(w.next(web))
		}},
	}
}

// aliasBomb expands to ten to the ninth.
func aliasBomb() string {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for letter := 'b'; letter < 'k'; letter++ {
		text += fmt.Sprintf("%c: &%c [%s]\n", letter, letter, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", letter-1), 10), ","))
	}
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\n" + text
}
