package render

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// BundleFile describes a bundle in its folder; it is no manifest.
const BundleFile = "pinnace.yaml"

// FleetFiles describe a bundle to Rancher Fleet, which looks for them in this order; they are no manifests either.
var FleetFiles = []string{"fleet.yaml", "fleet.yml"}

// Describes reports whether a file in a bundle's folder describes the bundle, and is no part of it.
func Describes(name string) bool { return name == BundleFile || slices.Contains(FleetFiles, name) }

var manifestGlobs = []string{"**/*.yaml", "**/*.yml", "**/*.json"}

// Manifests reads raw manifests. Files and folders whose names begin with a dot count only when a glob names them.
func Manifests(folder Folder, spec v1alpha1.Manifests) (Objects, error) {
	files, err := folder.Files()
	if err != nil {
		return nil, err
	}
	if files, err = Overlaid(files, spec.Overlays); err != nil {
		return nil, fmt.Errorf("%s: %w", folder.Path, err)
	}
	names, err := SelectManifests(slices.Sorted(maps.Keys(files)), spec)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no manifest matches %s; add one, or change spec.manifests.include",
			folder.Path, strings.Join(includes(spec), ", "))
	}
	var objects []Object
	var findings []error
	for _, name := range names {
		found, err := parse(path.Join(folder.Path, name), files[name], true)
		objects = append(objects, found...)
		findings = append(findings, err)
	}
	if err := errors.Join(findings...); err != nil {
		return nil, fmt.Errorf("%w; files that are no manifests are left out by spec.manifests.exclude", err)
	}
	return arrange(objects)
}

func includes(spec v1alpha1.Manifests) []string {
	if len(spec.Include) == 0 {
		return manifestGlobs
	}
	return spec.Include
}

// SelectManifests returns the names that the globs choose.
func SelectManifests(names []string, spec v1alpha1.Manifests) ([]string, error) {
	for _, glob := range slices.Concat(spec.Include, spec.Exclude) {
		if !doublestar.ValidatePattern(glob) {
			return nil, fmt.Errorf("%q is no valid glob", glob)
		}
	}
	matches := func(globs []string, name string) bool {
		return slices.ContainsFunc(globs, func(glob string) bool {
			matched, err := doublestar.Match(strings.TrimPrefix(glob, "./"), name)
			return err == nil && matched
		})
	}
	var chosen []string
	for _, name := range names {
		hidden := strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
		if Describes(name) || hidden && len(spec.Include) == 0 {
			continue
		}
		if matches(includes(spec), name) && !matches(spec.Exclude, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}
