package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// checkRollouts finds what is wrong with the strategies in the fleet's own document, and reads the key files that they
// name: a plan is read where these are not.
func checkRollouts(fsys fs.FS, fleet *target.Fleet, doc document.Document) []error {
	errs := checkRollout(fleet, doc, "spec.rollout", fleet.Spec.Rollout)
	errs = append(errs, readApprovers(fsys, doc, "spec.rollout", fleet.Spec.Rollout)...)
	for i := range fleet.Spec.Sources {
		path := fmt.Sprintf("spec.sources[%d].rollout", i)
		errs = append(errs, checkRollout(fleet, doc, path, fleet.Spec.Sources[i].Rollout)...)
		errs = append(errs, readApprovers(fsys, doc, path, fleet.Spec.Sources[i].Rollout)...)
	}
	return errs
}

// readApprovers puts the public keys of files, relative to the fleet's root, into the strategy.
func readApprovers(fsys fs.FS, doc document.Document, path string, strategy *v1alpha1.Rollout) []error {
	if strategy == nil || strategy.Approval == nil {
		return nil
	}
	var errs []error
	for i := range strategy.Approval.Signers.Keys {
		key := &strategy.Approval.Signers.Keys[i]
		if key.File == "" {
			continue
		}
		data, err := readFile(fsys, key.File)
		if err != nil {
			errs = append(errs, doc.Errorf(fmt.Sprintf("%s.approval.signers.keys[%d].file", path, i), "public key %s: %v; name it relative to the fleet's root", key.Name, err))
			continue
		}
		key.PublicKey, key.File = string(data), ""
	}
	return errs
}

// checkBundleRollouts finds what is wrong with the strategies of bundles.
func checkBundleRollouts(fleet *target.Fleet) error {
	var errs []error
	for i := range fleet.Bundles {
		bundle := &fleet.Bundles[i]
		errs = append(errs, checkRollout(fleet, bundle.Document, "spec.rollout", bundle.Spec.Rollout)...)
		if bundle.Spec.Rollout == nil || bundle.Spec.Rollout.Approval == nil {
			continue
		}
		for j, key := range bundle.Spec.Rollout.Approval.Signers.Keys {
			if key.File != "" {
				errs = append(errs, bundle.Document.Errorf(fmt.Sprintf("spec.rollout.approval.signers.keys[%d].file", j),
					"a bundle's strategy holds its keys itself; write %s as publicKey", key.Name))
			}
		}
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
