package publish

import (
	"errors"
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// checkRollouts finds what is wrong with the strategies in the fleet's own document.
func checkRollouts(fleet *target.Fleet, doc document.Document) []error {
	errs := checkRollout(fleet, doc, "spec.rollout", fleet.Spec.Rollout)
	for i := range fleet.Spec.Sources {
		errs = append(errs, checkRollout(fleet, doc, fmt.Sprintf("spec.sources[%d].rollout", i), fleet.Spec.Sources[i].Rollout)...)
	}
	return errs
}

// checkBundleRollouts finds what is wrong with the strategies of bundles.
func checkBundleRollouts(fleet *target.Fleet) error {
	var errs []error
	for i := range fleet.Bundles {
		errs = append(errs, checkRollout(fleet, fleet.Bundles[i].Document, "spec.rollout", fleet.Bundles[i].Spec.Rollout)...)
	}
	return errors.Join(errs...)
}

func checkRollout(fleet *target.Fleet, doc document.Document, path string, strategy *v1alpha1.Rollout) []error {
	if strategy == nil {
		return nil
	}
	known := rollout.Inventory{
		Cluster: func(name string) bool {
			return slices.ContainsFunc(fleet.Clusters, func(c target.Cluster) bool { return c.Metadata.Name == name })
		},
		Group: func(name string) bool {
			return slices.ContainsFunc(fleet.Groups, func(g target.Group) bool { return g.Metadata.Name == name })
		},
	}
	var errs []error
	for _, finding := range rollout.Check(*strategy, known) {
		errs = append(errs, doc.Errorf(path+"."+finding.Path, "%s: %s", path+"."+finding.Path, finding.Message))
	}
	return errs
}
