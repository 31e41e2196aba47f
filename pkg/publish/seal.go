package publish

import (
	"context"
	"errors"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

// seal makes the ciphertexts of a target of the i-th cluster that is issued. The target that the cluster was given
// before is read back, for what is unchanged to keep its own: age is randomised, and a builder that remembers nothing
// would change every secret of every cluster with every publish.
func (p *publisher) seal(ctx context.Context, fleet *target.Fleet, i int, next *v1alpha1.Target, before v1alpha1.IndexCluster) error {
	if !target.HasSecrets(next) {
		return nil
	}
	plan, err := fleet.PlanCluster(i)
	if err != nil {
		return err
	}
	var last *v1alpha1.Target
	if before.Digest != "" {
		verifier, err := p.ownVerifier(ctx)
		if err != nil {
			return err
		}
		fetched, err := p.fetchTarget(ctx, next.Cluster, before.Digest, verifier)
		switch {
		case err == nil:
			last = &fetched
		case !errors.Is(err, oci.ErrNotFound):
			return explainKey(err, p.registry)
		}
	}
	return fleet.Seal(plan, next, last)
}
