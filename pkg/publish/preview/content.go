package preview

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/manifests"
)

// Random stands for what a chart makes anew each time that it is rendered.
const Random = "(made anew each time)"

// Objects returns what a cluster gets of a bundle: the manifests in its layer as they are, or what its chart makes with
// the values in the target. Variables are not replaced.
func Objects(bundle v1alpha1.TargetBundle, layer []byte) ([]*unstructured.Unstructured, error) {
	if bundle.Method != v1alpha1.MethodRelease {
		return manifests.Read(layer)
	}
	chart, err := render.OpenChart(bundle.Name, layer)
	if err != nil {
		return nil, err
	}
	return renderChart(chart, bundle)
}

// renderChart renders twice, to tell what is random from what changed.
func renderChart(chart render.Chart, bundle v1alpha1.TargetBundle) ([]*unstructured.Unstructured, error) {
	release := render.Release{Namespace: bundle.Namespace}
	if spec := bundle.Release; spec != nil {
		release.Name = spec.Name
		// Numbers as the agent reads them, so that both sides print them alike.
		if err := kjson.UnmarshalCaseSensitivePreserveInts(encode(spec.Values), &release.Values); err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		release.SkipCRDs, release.DisableHooks = spec.SkipCRDs, spec.DisableHooks
	}
	objects, err := render.Try(chart, release)
	if err != nil {
		return nil, err
	}
	again, err := render.Try(chart, release)
	if err != nil {
		return nil, err
	}
	for i := range objects {
		if i < len(again) {
			objects[i].Object, _ = steady(objects[i].Object, again[i].Object).(map[string]any)
		}
	}
	return objects.Unstructured(), nil
}

// steady returns one with what differs from the other replaced.
func steady(one, other any) any {
	switch one := one.(type) {
	case map[string]any:
		if other, isMap := other.(map[string]any); isMap {
			for key, value := range one {
				one[key] = steady(value, other[key])
			}
			return one
		}
	case []any:
		if other, isList := other.([]any); isList && len(other) == len(one) {
			for i, value := range one {
				one[i] = steady(value, other[i])
			}
			return one
		}
	}
	if reflect.DeepEqual(one, other) {
		return one
	}
	return Random
}
