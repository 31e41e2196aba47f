package bundler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
	"pinnace.dev/pinnace/pkg/bundler/render"
)

const (
	// maxNesting stops charts in the source that depend on each other in a circle.
	maxNesting   = 8
	folderScheme = "file://"
	// requirementsFile is where charts of the first API version have their dependencies.
	requirementsFile = "requirements.yaml"
)

// charts is what a Helm bundle is made of beside its folder.
type charts struct {
	// main is nil for a chart in the source.
	main *remoteChart
	// dependencies are those that the chart in the source doesn't hold.
	dependencies []dependency
}

// remoteChart is a chart outside of the source, resolved and not yet fetched.
type remoteChart struct {
	ref   chartref.Reference
	found v1alpha1.Resolution
}

// dependency is outside of the source, or else a folder of it with dependencies of its own.
type dependency struct {
	remote *remoteChart
	folder render.Folder
	nested []dependency
}

// resolveCharts finds which versions the bundle's chart and its missing dependencies are. Nothing is downloaded that the
// last publish knew.
func (f *Found) resolveCharts(ctx context.Context) error {
	helm := f.Bundle.Spec.Helm
	if helm == nil {
		return nil
	}
	ref, remote, err := chartref.Parse(*helm)
	switch {
	case err != nil:
		return f.Document.Errorf("spec.helm.chart", "helm: %v", err)
	case remote:
		found, err := f.resolveChart(ctx, ref)
		if err != nil {
			return f.at("spec.helm.chart", err)
		}
		f.charts.main = found
		return nil
	}
	folder, err := f.folder().Below(helm.Chart)
	if err != nil {
		return f.Document.Errorf("spec.helm.chart", "%v", err)
	}
	description, err := folder.File(chartFile)
	if err != nil {
		return f.Document.Errorf("spec.helm.chart", "%v", err)
	}
	// What is wrong with a chart itself is said when it is built.
	if !declares(folder, description) {
		return nil
	}
	if f.charts.dependencies, err = f.resolveDependencies(ctx, folder, 0); err != nil {
		return f.at("spec.helm.chart", err)
	}
	return nil
}

// at names the bundle and the place in its file that asked for what failed; what err wraps stays known. Without a file
// there is no place.
func (f *Found) at(path string, err error) error {
	var place document.Error
	if errors.As(f.Document.Errorf(path, ""), &place) && place.File != "" {
		return fmt.Errorf("%s:%d:%d: bundle %q: %w", place.File, place.Line, place.Column, f.Bundle.Metadata.Name, err)
	}
	return fmt.Errorf("bundle %q: %w", f.Bundle.Metadata.Name, err)
}

// declares reports whether a chart may have dependencies, without reading all of it.
func declares(folder render.Folder, description []byte) bool {
	_, err := folder.File(requirementsFile)
	return err == nil || bytes.Contains(description, []byte("dependencies"))
}

func (f *Found) resolveChart(ctx context.Context, ref chartref.Reference) (*remoteChart, error) {
	if f.options.Charts == nil {
		return nil, fmt.Errorf("chart %s: is outside of the source, and nothing is fetched here", ref)
	}
	found, err := f.options.Charts.Resolve(ctx, ref)
	return &remoteChart{ref: ref, found: found}, err
}

func (f *Found) resolveDependencies(ctx context.Context, folder render.Folder, depth int) ([]dependency, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: dependencies nested deeper than %d", folder.Path, maxNesting)
	}
	read, err := render.ReadChart(folder)
	if err != nil {
		return nil, err
	}
	missing, err := read.Missing()
	if err != nil {
		return nil, err
	}
	var out []dependency
	var findings []error
	for _, wanted := range missing {
		resolved, err := f.resolveDependency(ctx, folder, wanted, depth)
		if err != nil {
			findings = append(findings, fmt.Errorf("%s: %w", path.Join(folder.Path, chartFile), err))
			continue
		}
		out = append(out, resolved)
	}
	return out, errors.Join(findings...)
}

func (f *Found) resolveDependency(ctx context.Context, folder render.Folder, wanted render.Dependency, depth int) (dependency, error) {
	if below, local := strings.CutPrefix(wanted.Repository, folderScheme); local {
		var out dependency
		var err error
		if out.folder, err = folder.Below(below); err != nil {
			return out, fmt.Errorf("dependency %q: %w", wanted.Name, err)
		}
		out.nested, err = f.resolveDependencies(ctx, out.folder, depth+1)
		return out, err
	}
	if f.options.Charts == nil {
		return dependency{}, fmt.Errorf("the dependency %q is not in charts/, and nothing is fetched here; run: helm dependency build %s, and commit what it fetched",
			wanted.Name, folder.Path)
	}
	ref, err := f.options.Charts.Dependency(wanted.Name, wanted.Repository, wanted.Version, f.Bundle.Spec.Helm.PlainHTTP)
	if err != nil {
		return dependency{}, err
	}
	remote, err := f.resolveChart(ctx, ref)
	return dependency{remote: remote}, err
}

// openChart returns the bundle's chart, complete, and where it is from. What is not in the source is fetched.
func (f Found) openChart(ctx context.Context) (render.Chart, v1alpha1.ChartProvenance, error) {
	if f.charts.main != nil {
		return f.fetchChart(ctx, *f.charts.main)
	}
	folder, err := f.folder().Below(f.Bundle.Spec.Helm.Chart)
	if err != nil {
		return render.Chart{}, v1alpha1.ChartProvenance{}, err
	}
	return f.openLocal(ctx, folder, f.charts.dependencies)
}

func (f Found) openLocal(ctx context.Context, folder render.Folder, dependencies []dependency) (render.Chart, v1alpha1.ChartProvenance, error) {
	read, err := render.ReadChart(folder)
	if err != nil {
		return read, v1alpha1.ChartProvenance{}, err
	}
	from := v1alpha1.ChartProvenance{Name: read.Name, Version: read.Version}
	for _, wanted := range dependencies {
		var below render.Chart
		var belowFrom v1alpha1.ChartProvenance
		if wanted.remote != nil {
			below, belowFrom, err = f.fetchChart(ctx, *wanted.remote)
		} else {
			below, belowFrom, err = f.openLocal(ctx, wanted.folder, wanted.nested)
		}
		if err != nil {
			return read, from, err
		}
		read = read.With(below)
		from.Dependencies = append(from.Dependencies, belowFrom)
	}
	return read, from, nil
}

func (f Found) fetchChart(ctx context.Context, wanted remoteChart) (render.Chart, v1alpha1.ChartProvenance, error) {
	packed, err := f.options.Charts.Fetch(ctx, wanted.ref, wanted.found)
	if err != nil {
		return render.Chart{}, v1alpha1.ChartProvenance{}, err
	}
	read, err := render.OpenChart(wanted.ref.String(), packed)
	repository := wanted.ref.Repository
	if repository == "" {
		repository = wanted.ref.Name
	}
	return read, v1alpha1.ChartProvenance{Name: read.Name, Version: read.Version, Repository: repository, Digest: wanted.found.Digest}, err
}

// chartInputs are the files of charts in the source, by path relative to it, and the digests of those that are not.
func (f Found) chartInputs() (files map[string][]byte, digests []string, err error) {
	if main := f.charts.main; main != nil {
		return nil, []string{main.ref.String() + " " + main.found.Digest}, nil
	}
	folder, err := f.folder().Below(f.Bundle.Spec.Helm.Chart)
	if err != nil {
		return nil, nil, err
	}
	files = map[string][]byte{}
	digests, err = collectInputs(folder, "", f.charts.dependencies, files)
	return files, digests, err
}

// collectInputs names files relative to the chart, so that moving the source's folders changes nothing.
func collectInputs(folder render.Folder, prefix string, dependencies []dependency, files map[string][]byte) ([]string, error) {
	found, err := folder.Files()
	if err != nil {
		return nil, err
	}
	for name, content := range found {
		if !render.Describes(name) {
			files[path.Join(prefix, name)] = content
		}
	}
	var digests []string
	for i, wanted := range dependencies {
		if wanted.remote != nil {
			digests = append(digests, wanted.remote.ref.String()+" "+wanted.remote.found.Digest)
			continue
		}
		// A colon is in no chart's own names.
		below, err := collectInputs(wanted.folder, path.Join(prefix, fmt.Sprintf("dependency:%d", i)), wanted.nested, files)
		if err != nil {
			return nil, err
		}
		digests = append(digests, below...)
	}
	return digests, nil
}
