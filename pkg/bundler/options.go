package bundler

import (
	"path/filepath"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chart"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
)

// Options of [Discover]. The zero value reads nothing but the source.
type Options struct {
	// Charts reaches charts outside of the source; nil refuses them.
	Charts *chart.Store
	// Images finds digests of container images; nil records none.
	Images *Images
	// ImageRules are the fleet's.
	ImageRules []v1alpha1.ImageRule
	// Bases reaches remote bases of kustomizations that the source allows; nil refuses them.
	Bases *Bases
}

// Remotes say how what is not in a source is reached.
type Remotes struct {
	// Source reaches Git repositories. Its cache folder also keeps charts; without one nothing is fetched.
	Source source.Options
	OCI    oci.Options
	// HelmConfig is Helm's repositories.yaml; it may be absent.
	HelmConfig string
	// Images are the fleet's options; nil for none.
	Images *v1alpha1.ImageOptions
	// Known is what the last publish resolved, and Refresh looks again nevertheless.
	Known   []v1alpha1.Resolution
	Refresh bool
}

// Reach returns options that fetch, and the memory of what names meant. It sends nothing.
func Reach(remotes Remotes) (Options, *resolution.Memory, error) {
	memory := resolution.Options{Known: remotes.Known, Refresh: remotes.Refresh}
	dir := remotes.Source.CacheDir
	if dir == "" {
		return Options{}, resolution.New(memory), nil
	}
	memory.Dir = filepath.Join(dir, "resolved")
	names := resolution.New(memory)
	charts, err := chart.New(chart.Options{
		CacheDir: filepath.Join(dir, "charts"), OCI: remotes.OCI, Credentials: remotes.Source.Auth.Basic,
		Memory: names, HelmConfig: remotes.HelmConfig,
	})
	if err != nil {
		return Options{}, names, err
	}
	options := Options{Charts: charts, Bases: &Bases{Source: remotes.Source, Memory: names}}
	if images := remotes.Images; images != nil {
		options.ImageRules = images.Rules
		if images.Digests {
			options.Images = &Images{OCI: remotes.OCI, PlainHTTP: images.PlainHTTP, Memory: names}
		}
	}
	return options, names, nil
}
