package bundler

import (
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chart"
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
