package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/ignore"

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
func Template(folder Folder, release Release) (Objects, error) {
	_, files, err := chartFiles(folder)
	if err != nil {
		return nil, err
	}
	objects, err := renderChart(folder, files, release)
	if err != nil {
		return nil, err
	}
	// Random passwords and certificates would differ in every publish.
	again, err := renderChart(folder, files, release)
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
func Try(folder Folder, release Release) (Objects, error) {
	_, files, err := chartFiles(folder)
	if err != nil {
		return nil, err
	}
	return renderChart(folder, files, release)
}

// Package packs a chart for Helm, always into the same bytes. What .helmignore names stays out.
func Package(folder Folder) ([]byte, error) {
	name, files, err := chartFiles(folder)
	if err != nil {
		return nil, err
	}
	if _, err := loadChart(folder, files); err != nil {
		return nil, err
	}
	packed, err := archive.Pack(name, files, archive.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder.Path, err)
	}
	return packed, nil
}

// chartFiles reads a chart's name and files, without what .helmignore names and without a bundle's own file.
func chartFiles(folder Folder) (string, map[string][]byte, error) {
	all, err := folder.Files()
	if err != nil {
		return "", nil, err
	}
	if all[chartFile] == nil {
		return "", nil, fmt.Errorf("%s: no Chart.yaml; add one, or change spec.helm.chart", folder.Path)
	}
	rules := ignore.Empty()
	if content, found := all[ignore.HelmIgnore]; found {
		if rules, err = ignore.Parse(bytes.NewReader(content)); err != nil {
			return "", nil, fmt.Errorf("%s: %w", path.Join(folder.Path, ignore.HelmIgnore), err)
		}
	}
	rules.AddDefaults()
	files := map[string][]byte{}
	for name, content := range all {
		if !Describes(name) && !ignored(rules, name) {
			files[name] = bytes.TrimPrefix(content, byteOrderMark)
		}
	}
	metadata, err := loader.LoadFiles([]*loader.BufferedFile{{Name: chartFile, Data: all[chartFile]}})
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path.Join(folder.Path, chartFile), err)
	}
	return metadata.Name(), files, nil
}

// ignored applies the rules to a file and to each folder on the way to it, as Helm does when it walks.
func ignored(rules *ignore.Rules, name string) bool {
	for i, letter := range name {
		if letter == '/' && rules.Ignore(name[:i], fileInfo{path.Base(name[:i]), true}) {
			return true
		}
	}
	return rules.Ignore(name, fileInfo{path.Base(name), false})
}

// fileInfo is all that ignore rules ask of a file.
type fileInfo struct {
	name string
	dir  bool
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return 0 }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.dir }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir
	}
	return 0
}

func loadChart(folder Folder, files map[string][]byte) (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	for _, name := range slices.Sorted(maps.Keys(files)) {
		buffered = append(buffered, &loader.BufferedFile{Name: name, Data: files[name]})
	}
	loaded, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", folder.Path, err)
	}
	if loaded.Metadata.Type == "library" {
		return nil, fmt.Errorf("%s: is a library chart, which cannot be installed", path.Join(folder.Path, chartFile))
	}
	for _, dependency := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(c *chart.Chart) bool { return c.Name() == dependency.Name }) {
			return nil, fmt.Errorf("%s: the dependency %q is not in charts/; run: helm dependency build %s, and commit what it fetched",
				path.Join(folder.Path, chartFile), dependency.Name, folder.Path)
		}
	}
	return loaded, nil
}

// renderChart returns objects in the order of their files. The chart is loaded anew, because rendering changes it.
func renderChart(folder Folder, files map[string][]byte, release Release) (Objects, error) {
	loaded, err := loadChart(folder, files)
	if err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("chart %s: %w", folder.Path, oneLine(err)) }
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
		return nil, fmt.Errorf("chart %s: %w", folder.Path, err)
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
