package preview

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Change is what becomes of one object. Secrets are masked in it.
type Change struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	Action     Action `json:"action"`
	// Diff is a unified difference of the object's YAML, without a header; empty for an object that goes.
	Diff string `json:"diff,omitempty"`
}

// String names the object: apps/v1 Deployment shop/web.
func (c Change) String() string {
	name := c.Name
	if c.Namespace != "" {
		name = c.Namespace + "/" + name
	}
	return c.APIVersion + " " + c.Kind + " " + name
}

// Compare says what becomes of each object, by group, kind, namespace and name; what stays the same is left out. An
// object of another API version is the same one, as it is for the cluster.
func Compare(before, after []*unstructured.Unstructured, mask *Mask) []Change {
	old, now := byIdentity(before), byIdentity(after)
	var changes []Change
	for _, id := range slices.Sorted(maps.Keys(merged(old, now))) {
		b, a := old[id], now[id]
		object, action := a, Changed
		switch {
		case a == nil:
			object, action = b, Removed
		case b == nil:
			action = Added
		case bytes.Equal(encode(b.Object), encode(a.Object)):
			continue
		}
		change := Change{
			APIVersion: object.GetAPIVersion(), Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName(), Action: action,
		}
		if action != Removed {
			hiddenBefore, hiddenAfter := mask.objects(content(b), content(a))
			change.Diff = unified(hiddenBefore, hiddenAfter)
		}
		changes = append(changes, change)
	}
	return changes
}

func byIdentity(objects []*unstructured.Unstructured) map[string]*unstructured.Unstructured {
	out := map[string]*unstructured.Unstructured{}
	for _, object := range objects {
		out[strings.Join([]string{object.GroupVersionKind().Group, object.GetKind(), object.GetNamespace(), object.GetName()}, "\x00")] = object
	}
	return out
}

func merged[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func content(object *unstructured.Unstructured) map[string]any {
	if object == nil {
		return nil
	}
	return object.Object
}

// Options compares what a target says of a bundle beside its artifact: namespace, values, variables, dependencies,
// health and drift. It is a unified difference of YAML, without a header; empty when nothing differs.
func Options(pair Pair, mask *Mask) string {
	var before, after map[string]any
	if pair.Before != nil {
		before = options(pair.Before)
	}
	if pair.After != nil {
		after = options(pair.After)
	}
	b, a := mask.fields(any(before), any(after))
	hiddenBefore, _ := b.(map[string]any)
	hiddenAfter, _ := a.(map[string]any)
	return unified(hiddenBefore, hiddenAfter)
}

// options are a target's words on a bundle, as data, without those that follow from the artifact and without empty ones.
func options(bundle *v1alpha1.TargetBundle) map[string]any {
	var out map[string]any
	if err := utiljson.Unmarshal(encode(bundle), &out); err != nil {
		panic(err) // it was just encoded
	}
	for _, key := range []string{"name", "repository", "digest", "layerDigest"} {
		delete(out, key)
	}
	for key, value := range out {
		if key == "variables" || key == "release" {
			continue // empty ones mean something there
		}
		if out[key] = prune(value); out[key] == nil {
			delete(out, key)
		}
	}
	if release, isMap := out["release"].(map[string]any); isMap && release["timeout"] == "0s" {
		delete(release, "timeout")
	}
	return out
}

// prune removes what is empty: a difference of options is read by people.
func prune(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, item := range value {
			if value[key] = prune(item); value[key] == nil {
				delete(value, key)
			}
		}
		if len(value) == 0 {
			return nil
		}
	case string:
		if value == "" || value == "0s" {
			return nil
		}
	}
	return value
}

// unified returns the hunks of the difference between two documents; nil is an empty one.
func unified(before, after map[string]any) string {
	old, now := document(before), document(after)
	text := diff.Diff("before", old, "after", now)
	_, hunks, _ := bytes.Cut(text, []byte("+++ after\n"))
	return string(hunks)
}

func document(content map[string]any) []byte {
	if len(content) == 0 {
		return nil
	}
	data, err := yaml.Marshal(content)
	if err != nil {
		panic(err) // JSON types only
	}
	return data
}
