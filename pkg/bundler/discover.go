package bundler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/fleetyaml"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

const chartFile = "Chart.yaml"

// maxReads bounds how many bundles are read at the same time; some ask a chart repository.
const maxReads = 8

// Discover finds the bundles below a source's paths, sorted by path. All findings are returned at once.
func Discover(ctx context.Context, tree source.Tree, src v1alpha1.Source, opts Options) ([]Found, error) {
	root, err := os.OpenRoot(tree.Dir)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", src.Name, err)
	}
	defer func() { _ = root.Close() }()
	if len(src.Paths) == 0 {
		return nil, fmt.Errorf("source %q: names no paths; add one, such as bundles/*", src.Name)
	}
	d := discovery{tree: tree, src: src, fsys: root.FS(), kinds: map[string]bool{}}
	var folders []string
	var findings []error
	for _, glob := range src.Paths {
		matched, err := d.match(glob)
		if err != nil {
			findings = append(findings, fmt.Errorf("source %q: path %q %w", src.Name, glob, err))
		}
		folders = append(folders, matched...)
	}
	slices.Sort(folders)
	folders = outermost(slices.Compact(folders))
	read, errs := make([]Found, len(folders)), make([]error, len(folders))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, folder := range folders {
		group.Go(func() error {
			if errs[i] = groupCtx.Err(); errs[i] == nil {
				read[i], errs[i] = d.read(groupCtx, folder, opts)
			}
			return nil
		})
	}
	_ = group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var found []Found
	for i := range folders {
		if errs[i] != nil {
			findings = append(findings, fmt.Errorf("source %q: %w", src.Name, errs[i]))
			continue
		}
		found = append(found, read[i])
	}
	return found, errors.Join(findings...)
}

// outermost leaves out folders below others. Folders are sorted, so that a/b comes behind a, maybe not at once.
func outermost(folders []string) []string {
	var kept []string
	for _, folder := range folders {
		inside := slices.ContainsFunc(kept, func(outer string) bool {
			return outer == "." || strings.HasPrefix(folder, outer+"/")
		})
		if !inside {
			kept = append(kept, folder)
		}
	}
	return kept
}

type discovery struct {
	tree source.Tree
	src  v1alpha1.Source
	fsys fs.FS
	// kinds remembers which folders are bundles.
	kinds map[string]bool
}

// match returns the folders that a glob names and that are bundles.
func (d *discovery) match(glob string) ([]string, error) {
	clean := path.Clean(filepath.ToSlash(glob))
	if !doublestar.ValidatePattern(clean) {
		return nil, errors.New("is no valid glob")
	}
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return nil, errors.New("leads out of the source; paths are relative to its root")
	}
	matched, err := doublestar.Glob(d.fsys, clean)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, name := range matched {
		info, err := fs.Stat(d.fsys, name)
		if err != nil || !info.IsDir() || hidden(name) && !hidden(clean) {
			continue
		}
		isBundle, known := d.kinds[name]
		if !known {
			isBundle = d.isBundle(name)
			d.kinds[name] = isBundle
		}
		if isBundle {
			folders = append(folders, name)
		}
	}
	switch {
	case len(matched) == 0:
		return nil, errors.New("matches nothing; correct it, or push the folders that it should match")
	case len(folders) == 0:
		return nil, errors.New("matches no folder with a pinnace.yaml, fleet.yaml, Chart.yaml, kustomization.yaml or manifests")
	}
	return folders, nil
}

func hidden(name string) bool {
	return strings.Contains(name, "/.") || strings.HasPrefix(name, ".") && name != "."
}

// file reads what may be a document: no more of it than one byte that [document.Read] refuses.
func (d *discovery) file(name string) ([]byte, error) {
	opened, err := d.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = opened.Close() }()
	return io.ReadAll(io.LimitReader(opened, document.MaxBytes+1))
}

// isBundle looks at the files of the folder itself only, so that a folder of bundles is none.
func (d *discovery) isBundle(folder string) bool {
	if description, err := d.file(path.Join(folder, render.BundleFile)); err == nil {
		// The fleet repository's own pinnace.yaml describes the fleet. What cannot be read is reported later.
		documents, err := document.Read(render.BundleFile, description)
		if err == nil && len(documents) > 0 && documents[0].Kind == v1alpha1.KindFleet {
			return false
		}
		return true
	}
	entries, err := fs.ReadDir(d.fsys, folder)
	if err != nil {
		return false
	}
	// A component changes other kustomizations, and is nothing by itself.
	for _, name := range render.KustomizationFiles {
		content, err := d.file(path.Join(folder, name))
		if err == nil && render.IsComponent(content) {
			return false
		}
	}
	return slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		name := entry.Name()
		return !entry.IsDir() && !strings.HasPrefix(name, ".") &&
			(slices.Contains(render.KustomizationFiles, name) || slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)))
	})
}

// read decodes, completes and checks one bundle.
func (d *discovery) read(ctx context.Context, folder string, opts Options) (Found, error) {
	found := Found{
		options: opts, allowed: d.src.RemoteBases, own: &ownImages{},
		Root: d.tree.Dir, Dir: filepath.Join(d.tree.Dir, filepath.FromSlash(folder)), Commit: d.tree.Commit,
		Source: v1alpha1.SourceIdentity{Name: d.src.Name, Repository: d.tree.Repository, Path: folder},
	}
	file, err := found.describe()
	if err != nil {
		return Found{}, err
	}
	if found.Bundle.Metadata.Name == "" {
		found.Bundle.Metadata.Name = d.defaultName(folder)
	}
	name := found.Bundle.Metadata.Name
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		field := "metadata.name"
		if path.Base(file) != render.BundleFile {
			field = "name"
		}
		return Found{}, found.Document.Errorf("metadata.name", "%q is no name for a bundle: %s; set %s in %s", name, problems[0], field, file)
	}
	if len(found.Bundle.Spec.Targets) == 0 {
		found.Bundle.Spec.Targets = slices.Clone(d.src.Targets)
	}
	if err := found.complete(); err != nil {
		return Found{}, err
	}
	if err := found.validate(); err != nil {
		return found, err
	}
	return found, found.resolveCharts(ctx)
}

// describe reads what the folder says of itself, in our words or in Rancher Fleet's, and returns the file's path. It may
// say nothing.
func (f *Found) describe() (file string, err error) {
	file = path.Join(f.Source.Path, render.BundleFile)
	description, err := f.folder().File(render.BundleFile)
	ours := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	for _, name := range render.FleetFiles {
		theirs, err := f.folder().File(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return file, err
		case ours:
			return file, document.Error{File: file, Line: 1, Column: 1, Message: name + " describes the bundle too; remove one of them"}
		}
		file = path.Join(f.Source.Path, name)
		converted, err := fleetyaml.Convert(file, theirs, f.folder())
		f.Bundle, f.Document = converted.Bundle, converted.Document
		for _, finding := range converted.Findings {
			if finding.Harmless {
				f.Warnings = append(f.Warnings, finding)
			}
		}
		return file, errors.Join(err, converted.Err())
	}
	if ours {
		f.Bundle, f.Document, err = document.Decode[v1alpha1.Bundle](file, description, v1alpha1.KindBundle)
		return file, err
	}
	f.Bundle.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundle}
	f.Document = document.Document{File: f.Source.Path}
	return file, nil
}

func (d *discovery) defaultName(folder string) string {
	if folder == "." {
		return d.src.Name
	}
	return path.Base(folder)
}

// Warnings returns what people should know of bundles; what is so for many is said once.
func Warnings(found []Found) []string {
	var all []fleetyaml.Finding
	for _, one := range found {
		all = append(all, one.Warnings...)
	}
	return fleetyaml.Warnings(all)
}

// complete chooses the renderer by what the folder holds, sets defaults and merges the values files.
func (f *Found) complete() error {
	spec := &f.Bundle.Spec
	if spec.Helm == nil && spec.Kustomize == nil && spec.Manifests == nil {
		switch {
		case f.has(chartFile):
			spec.Helm = &v1alpha1.Helm{}
		case slices.ContainsFunc(render.KustomizationFiles, f.has):
			spec.Kustomize = &v1alpha1.Kustomize{}
		default:
			spec.Manifests = &v1alpha1.Manifests{}
		}
	}
	if spec.Manifests != nil && (len(spec.Manifests.Overlays) > 0 || slices.ContainsFunc(spec.Overrides, overlays)) {
		spec.Manifests.Exclude = append(slices.Clone(spec.Manifests.Exclude), render.OverlaysDir+"/**")
	}
	if spec.Helm == nil {
		return nil
	}
	if spec.Helm.Install == "" {
		spec.Helm.Install = v1alpha1.InstallRelease
		if f.postRendered() {
			spec.Helm.Install = v1alpha1.InstallApply
		}
	}
	if spec.Helm.ReleaseName == "" {
		spec.Helm.ReleaseName = f.Bundle.Metadata.Name
	}
	return f.mergeValuesFiles()
}

// postRendered reports whether a kustomization changes what the bundle's chart renders, for some cluster at least.
func (f *Found) postRendered() bool {
	spec := f.Bundle.Spec
	return spec.Helm != nil && (spec.Kustomize != nil ||
		slices.ContainsFunc(spec.Overrides, func(override v1alpha1.Override) bool { return override.Kustomize != nil }))
}

func overlays(override v1alpha1.Override) bool { return len(override.Overlays) > 0 }

func (f *Found) has(name string) bool {
	_, err := f.folder().File(name)
	return err == nil
}
