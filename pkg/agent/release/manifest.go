package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	helmkube "helm.sh/helm/v3/pkg/kube"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// decode reads a stream of YAML documents, lists opened.
func decode(stream []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("read manifest: %w", err)
		case len(object.Object) == 0:
			continue
		case !object.IsList():
			objects = append(objects, normal(object))
			continue
		}
		list, err := object.ToList()
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		for i := range list.Items {
			objects = append(objects, normal(&list.Items[i]))
		}
	}
}

// normal makes numbers the types that Kubernetes' own decoder makes.
func normal(object *unstructured.Unstructured) *unstructured.Unstructured {
	if raw, err := object.MarshalJSON(); err == nil {
		out := &unstructured.Unstructured{}
		if out.UnmarshalJSON(raw) == nil {
			return out
		}
	}
	return object
}

// labeller is the post-renderer that marks a release's objects as the bundle's.
type labeller struct{ release Release }

// Run implements Helm's postrender.PostRenderer.
func (l labeller) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	objects, err := decode(rendered.Bytes())
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, object := range objects {
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[v1alpha1.LabelBundle] = l.release.Bundle
		object.SetLabels(labels)
		if l.keeps(object) {
			annotations := object.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[helmkube.ResourcePolicyAnno] = helmkube.KeepPolicy
			object.SetAnnotations(annotations)
		}
		encoded, err := yaml.Marshal(object.Object)
		if err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		out.WriteString("---\n")
		out.Write(encoded)
	}
	return &out, nil
}

func (l labeller) keeps(object *unstructured.Unstructured) bool {
	rules := l.release.Options.Prune
	return rules.Enabled != nil && !*rules.Enabled || object.GetAnnotations()[v1alpha1.AnnotationPrune] == "disabled" ||
		apply.Keeps(rules, apply.RefOf(object))
}

// manifestObjects returns a release's objects with the marks of ownership that Helm adds when it writes them.
func manifestObjects(release *helmrelease.Release) ([]*unstructured.Unstructured, error) {
	objects, err := decode([]byte(release.Manifest))
	if err != nil {
		return nil, fmt.Errorf("release %s/%s: %w", release.Namespace, release.Name, err)
	}
	for _, object := range objects {
		labels, annotations := object.GetLabels(), object.GetAnnotations()
		if labels == nil {
			labels = map[string]string{}
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		labels[v1alpha1.LabelManagedBy] = "Helm"
		annotations["meta.helm.sh/release-name"] = release.Name
		annotations["meta.helm.sh/release-namespace"] = release.Namespace
		object.SetLabels(labels)
		object.SetAnnotations(annotations)
	}
	return objects, nil
}

// manifestInventory lists a release's objects, namespaces filled in; none for a nil release.
func manifestInventory(applier *apply.Applier, release Release, of *helmrelease.Release) (apply.Inventory, error) {
	if of == nil {
		return nil, nil
	}
	objects, err := decode([]byte(of.Manifest))
	if err != nil {
		return nil, fmt.Errorf("release %s/%s: %w", of.Namespace, of.Name, err)
	}
	refs := make([]apply.Ref, 0, len(objects))
	for _, object := range objects {
		ref, err := applier.Place(context.Background(), release.AsBundle(), apply.RefOf(object))
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return apply.InventoryOf(refs...), nil
}

// keptByHelm lists what helm uninstall leaves.
func keptByHelm(release *helmrelease.Release) (apply.Inventory, error) {
	objects, err := decode([]byte(release.Manifest))
	if err != nil {
		return nil, fmt.Errorf("release %s/%s: %w", release.Namespace, release.Name, err)
	}
	var refs []apply.Ref
	for _, object := range objects {
		if object.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy {
			ref := apply.RefOf(object)
			refs = append(refs, ref)
			if ref.Namespace == "" { // under its namespace if it has one, as it is if it is cluster-wide
				ref.Namespace = release.Namespace
				refs = append(refs, ref)
			}
		}
	}
	return apply.InventoryOf(refs...), nil
}

// compare says what became of each object between two revisions, which Helm doesn't tell.
func compare(release Release, before, after *helmrelease.Release, inventory apply.Inventory) []apply.Change {
	old, current := byID(release, before), byID(release, after)
	var changes []apply.Change
	for _, ref := range inventory {
		id := ref.ID()
		loose := id
		loose.Namespace = ""
		was, had := find(old, id, loose)
		is, _ := find(current, id, loose)
		action := apply.Created
		switch {
		case had && reflect.DeepEqual(was, is):
			action = apply.Unchanged
		case had:
			action = apply.Configured
		}
		changes = append(changes, apply.Change{Object: ref, Action: action})
	}
	for id, object := range old {
		if _, still := current[id]; !still {
			changes = append(changes, apply.Change{Object: apply.RefOf(object), Action: apply.Deleted})
		}
	}
	return changes
}

func find(in map[apply.ID]*unstructured.Unstructured, ids ...apply.ID) (*unstructured.Unstructured, bool) {
	for _, id := range ids {
		if object, ok := in[id]; ok {
			return object, true
		}
	}
	return nil, false
}

// byID indexes a revision's objects as the manifest names them, a namespace that is the release's left out.
func byID(release Release, of *helmrelease.Release) map[apply.ID]*unstructured.Unstructured {
	out := map[apply.ID]*unstructured.Unstructured{}
	if of == nil {
		return out
	}
	objects, err := decode([]byte(of.Manifest))
	if err != nil {
		return out
	}
	for _, object := range objects {
		id := apply.RefOf(object).ID()
		if id.Namespace == release.Namespace {
			id.Namespace = ""
		}
		out[id] = object
	}
	return out
}
