package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

// KubeVersion is what charts are told where they ask for the cluster's version, and check their kubeVersion against.
// The cluster is not there yet when a chart is rendered by the builder.
const KubeVersion = "v1.36.0"

// Helm's annotation on hooks, and its prefix of those that are tests.
const (
	hookAnnotation = "helm.sh/hook"
	hookTestPrefix = "test"
	notesFile      = "NOTES.txt"
	chartFile      = "Chart.yaml"
)

// Release is what a chart sees of its release.
type Release struct {
	Name, Namespace string
	Values          v1alpha1.Values
	SkipCRDs        bool
	// DisableHooks leaves hooks out of Template, which otherwise refuses them: they only run in a Helm release.
	DisableHooks bool
}

// Template renders a chart as helm template does, without any cluster.
func Template(chart Chart, release Release) (Objects, error) {
	objects, err := chart.render(release)
	if err != nil {
		return nil, err
	}
	// Random passwords and certificates would differ in every publish.
	again, err := chart.render(release)
	if err != nil {
		return nil, err
	}
	kept := objects[:0:0]
	for i, object := range objects {
		if i >= len(again) || !jsonEqual(object.Object, again[i].Object) {
			return nil, fmt.Errorf("%s: %s differs each time it is rendered: the chart makes random values or reads the clock; set them in spec.helm.values, or use spec.helm.install: release",
				object.From, object)
		}
		hooks, isHook := object.GetAnnotations()[hookAnnotation]
		switch {
		case !isHook:
			kept = append(kept, object)
		case strings.HasPrefix(hooks, hookTestPrefix) || release.DisableHooks:
		default:
			return nil, fmt.Errorf("%s: %s is a %s hook, which only runs in a release; use spec.helm.install: release, or spec.helm.disableHooks: true to leave hooks out",
				object.From, object, hooks)
		}
	}
	return arrange(kept)
}

// Try renders a chart as a release would and returns its objects, hooks included.
func Try(chart Chart, release Release) (Objects, error) { return chart.render(release) }

// Package packs a chart for Helm, always into the same bytes.
func Package(chart Chart) ([]byte, error) {
	if _, err := chart.load(); err != nil {
		return nil, err
	}
	packed, err := archive.Pack(chart.Name, chart.files, archive.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", chart.Where, err)
	}
	return packed, nil
}

// render returns objects in the order of their files. The chart is loaded anew, because rendering changes it.
func (c Chart) render(release Release) (Objects, error) {
	loaded, err := c.load()
	if err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("chart %s: %w", c.Where, oneLine(err)) }
	version, err := chartutil.ParseKubeVersion(KubeVersion)
	if err != nil {
		return nil, fail(err)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	if wants := loaded.Metadata.KubeVersion; wants != "" && !chartutil.IsCompatibleRange(wants, KubeVersion) {
		return nil, fail(fmt.Errorf("wants Kubernetes %s, charts are rendered for %s; widen kubeVersion in Chart.yaml", wants, KubeVersion))
	}
	values := map[string]any(release.Values.DeepCopy())
	if values == nil {
		values = map[string]any{}
	}
	if err := chartutil.ProcessDependenciesWithMerge(loaded, values); err != nil {
		return nil, fail(err)
	}
	context, err := chartutil.ToRenderValuesWithSchemaValidation(loaded, values, chartutil.ReleaseOptions{
		Name: release.Name, Namespace: release.Namespace, Revision: 1, IsInstall: true,
	}, capabilities, remoteSchema(loaded))
	if err != nil {
		return nil, fail(err)
	}
	rendered, err := engine.Engine{}.Render(loaded, context)
	if err != nil {
		return nil, fail(err)
	}
	var objects Objects
	if !release.SkipCRDs {
		for _, crd := range loaded.CRDObjects() {
			found, err := parse(crd.Filename, crd.File.Data, false)
			if err != nil {
				return nil, fail(err)
			}
			objects = append(objects, found...)
		}
	}
	var findings []error
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if path.Base(name) == notesFile || strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		found, err := parse(name, []byte(rendered[name]), false)
		if err != nil {
			findings = append(findings, fmt.Errorf("as rendered: %w", err))
		}
		objects = append(objects, found...)
	}
	if err := errors.Join(findings...); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Where, err)
	}
	return objects, nil
}

// remoteSchema reports whether checking the values against the chart's schemas would read other files or the network.
// Such schemas are not checked.
func remoteSchema(c *chart.Chart) bool {
	if len(c.Schema) > 0 {
		var schema any
		if json.Unmarshal(c.Schema, &schema) == nil && refersElsewhere(schema) {
			return true
		}
	}
	return slices.ContainsFunc(c.Dependencies(), remoteSchema)
}

func refersElsewhere(schema any) bool {
	switch schema := schema.(type) {
	case []any:
		return slices.ContainsFunc(schema, refersElsewhere)
	case map[string]any:
		for key, value := range schema {
			reference, isString := value.(string)
			switch {
			case isString && (key == "$ref" || key == "$dynamicRef" || key == "$recursiveRef") && !strings.HasPrefix(reference, "#"):
				return true
			// Drafts that the library knows by heart.
			case isString && key == "$schema" && !strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(reference, "https:"), "http:"), "//json-schema.org/"):
				return true
			case refersElsewhere(value):
				return true
			}
		}
	}
	return false
}

func jsonEqual(a, b any) bool {
	one, errOne := json.Marshal(a)
	two, errTwo := json.Marshal(b)
	return errOne == nil && errTwo == nil && bytes.Equal(one, two)
}
