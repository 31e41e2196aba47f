package render

import (
	"bytes"
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
	"helm.sh/helm/v3/pkg/ignore"

	"pinnace.dev/pinnace/pkg/oci/archive"
)

const (
	chartsDir = "charts"
	// maxDependencies stops a chart that has the builder fetch without end.
	maxDependencies = 64
)

// Chart is a Helm chart's files.
type Chart struct {
	// Name and Version are those of its Chart.yaml.
	Name, Version string
	// Where speaks to people: its folder, or where it was fetched from.
	Where string
	files map[string][]byte
}

// Dependency is a chart that another one needs and doesn't hold in charts/.
type Dependency struct {
	Name, Repository string
	// Version is Chart.lock's where there is one, else Chart.yaml's, which may be a range.
	Version string
}

// ReadChart reads the chart in a folder, without what .helmignore names and without a bundle's own file.
func ReadChart(folder Folder) (Chart, error) {
	all, err := folder.Files()
	if err != nil {
		return Chart{}, err
	}
	if all[chartFile] == nil {
		return Chart{}, fmt.Errorf("%s: no Chart.yaml; add one, or change spec.helm.chart", folder.Path)
	}
	rules := ignore.Empty()
	if content, found := all[ignore.HelmIgnore]; found {
		if rules, err = ignore.Parse(bytes.NewReader(content)); err != nil {
			return Chart{}, fmt.Errorf("%s: %w", path.Join(folder.Path, ignore.HelmIgnore), err)
		}
	}
	rules.AddDefaults()
	files := map[string][]byte{}
	for name, content := range all {
		if !Describes(name) && !ignored(rules, name) {
			files[name] = bytes.TrimPrefix(content, byteOrderMark)
		}
	}
	return newChart(folder.Path, all[chartFile], files)
}

// OpenChart reads a packed chart: an archive that holds its folder.
func OpenChart(where string, packed []byte) (Chart, error) {
	all, err := archive.Unpack(bytes.NewReader(packed), archive.Limits{})
	if err != nil {
		return Chart{}, fmt.Errorf("chart %s: %w", where, err)
	}
	files, folder := map[string][]byte{}, ""
	for name, content := range all {
		dir, below, inside := strings.Cut(name, "/")
		if !inside || folder != "" && dir != folder {
			return Chart{}, fmt.Errorf("chart %s: the archive holds more than the chart's folder: %s", where, name)
		}
		folder, files[below] = dir, bytes.TrimPrefix(content, byteOrderMark)
	}
	if files[chartFile] == nil {
		return Chart{}, fmt.Errorf("chart %s: the archive holds no Chart.yaml", where)
	}
	return newChart(where, files[chartFile], files)
}

func newChart(where string, description []byte, files map[string][]byte) (Chart, error) {
	loaded, err := loader.LoadFiles([]*loader.BufferedFile{{Name: chartFile, Data: description}})
	if err != nil {
		return Chart{}, fmt.Errorf("%s: %w", path.Join(where, chartFile), err)
	}
	return Chart{Name: loaded.Name(), Version: loaded.Metadata.Version, Where: where, files: files}, nil
}

// With returns the chart with a dependency in its charts/ folder.
func (c Chart) With(dependency Chart) Chart {
	files := maps.Clone(c.files)
	for name, content := range dependency.files {
		files[path.Join(chartsDir, dependency.Name+"-"+dependency.Version, name)] = content
	}
	c.files = files
	return c
}

// Missing returns the dependencies that are to be fetched, in the order of Chart.yaml.
func (c Chart) Missing() ([]Dependency, error) {
	loaded, err := c.parse()
	if err != nil {
		return nil, err
	}
	locked := map[string]string{}
	if loaded.Lock != nil {
		for _, entry := range loaded.Lock.Dependencies {
			locked[entry.Name+" "+entry.Repository] = entry.Version
		}
	}
	var missing []Dependency
	for _, dependency := range loaded.Metadata.Dependencies {
		if holds(loaded, dependency.Name) {
			continue
		}
		out := Dependency{Name: dependency.Name, Repository: dependency.Repository, Version: dependency.Version}
		if loaded.Lock != nil && !strings.HasPrefix(out.Repository, "file://") {
			version := locked[dependency.Name+" "+dependency.Repository]
			if version == "" || dependency.Version != "" && !chartutil.IsCompatibleRange(dependency.Version, version) {
				return nil, fmt.Errorf("%s: Chart.lock has no version of the dependency %q within %q; run: helm dependency update %s, and commit Chart.lock",
					path.Join(c.Where, chartFile), dependency.Name, dependency.Version, c.Where)
			}
			out.Version = version
		}
		missing = append(missing, out)
	}
	if len(missing) > maxDependencies {
		return nil, fmt.Errorf("%s: more than %d dependencies to fetch", path.Join(c.Where, chartFile), maxDependencies)
	}
	return missing, nil
}

func holds(c *chart.Chart, dependency string) bool {
	return slices.ContainsFunc(c.Dependencies(), func(c *chart.Chart) bool { return c.Name() == dependency })
}

func (c Chart) parse() (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		buffered = append(buffered, &loader.BufferedFile{Name: name, Data: c.files[name]})
	}
	loaded, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Where, err)
	}
	return loaded, nil
}

// load returns the chart complete and ready to be rendered.
func (c Chart) load() (*chart.Chart, error) {
	loaded, err := c.parse()
	if err != nil {
		return nil, err
	}
	if loaded.Metadata.Type == "library" {
		return nil, fmt.Errorf("%s: is a library chart, which cannot be installed", path.Join(c.Where, chartFile))
	}
	for _, dependency := range loaded.Metadata.Dependencies {
		if !holds(loaded, dependency.Name) {
			return nil, fmt.Errorf("%s: the dependency %q is not in charts/; run: helm dependency build %s, and commit what it fetched",
				path.Join(c.Where, chartFile), dependency.Name, c.Where)
		}
	}
	return loaded, nil
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
