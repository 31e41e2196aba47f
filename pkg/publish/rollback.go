package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// RollbackOptions of [Rollback]. The clock, the signer, the jobs and the progress are those of a publish.
type RollbackOptions struct {
	Options
	// To is the publication to go back to.
	To int64
	// Clusters limits it to some; all when empty.
	Clusters []string
}

// Rollback publishes what an earlier publication gave its clusters as new generations: agents never go back to an older
// one. A cluster that the earlier publication didn't have keeps what it has. The next publish brings again what the
// fleet repository says.
func Rollback(ctx context.Context, registry oci.Registry, opts RollbackOptions) (Result, error) {
	p := newPublisher(registry, opts.Options)
	parent, parentDigest, err := p.readParent(ctx)
	if err != nil {
		return Result{}, err
	}
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return Result{}, err
	}
	earlier, earlierDesc, err := readIndex(ctx, registry, verifier, v1alpha1.PublicationTag(opts.To))
	if errors.Is(err, oci.ErrNotFound) {
		return Result{}, fmt.Errorf("%s has no publication %d; the last one is %d: %w", registry, opts.To, parent.Publication, err)
	}
	if err != nil {
		return Result{}, explainKey(err, registry)
	}
	targets := p.reissue(parent, earlier, opts.Clusters, verifier)
	result := Result{
		Fleet: parent.Fleet, Registry: registry.String(), DryRun: p.DryRun,
		Publication: parent.Publication, Digest: parentDigest, Sources: earlier.Sources,
	}
	if err := result.addTargets(targets); err != nil {
		return result, err
	}
	if result.SignedAgain, err = p.signAgain(ctx, parent, parentDigest); err != nil {
		return result, err
	}
	again, err := p.signAgain(ctx, earlier, earlierDesc.Digest.String())
	if result.SignedAgain += again; err != nil {
		return result, err
	}
	if p.DryRun || !result.Changed() {
		return result, nil
	}
	index := p.newIndex(parent, parentDigest, earlier.Sources, mergeBundles(earlier.Bundles, parent.Bundles), targets)
	return p.commit(ctx, result, parent, index, targets, nil)
}

// reissue makes new targets out of those of an earlier publication.
func (p *publisher) reissue(parent, earlier v1alpha1.FleetIndex, only []string, verifier *signing.Verifier) []issuedTarget {
	before := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range earlier.Clusters {
		before[cluster.Name] = cluster
	}
	issued := make([]issuedTarget, len(parent.Clusters))
	for i, now := range parent.Clusters {
		then, known := before[now.Name]
		if !known || then.Content == now.Content || len(only) > 0 && !slices.Contains(only, now.Name) {
			issued[i] = kept(now)
			continue
		}
		opts := target.Options{Now: p.Now(), AllowPrune: p.AllowPrune}
		issued[i] = decided(now, then.Content, then.Bundles, target.Decide(then.Content, then.Bundles, now, opts))
		issued[i].index.Rollouts = nil // people who go back don't wait
		issued[i].make = func(ctx context.Context) (v1alpha1.Target, error) {
			old, err := p.fetchTarget(ctx, now.Name, then.Digest, verifier)
			if err != nil {
				return old, fmt.Errorf("cluster %s: generation %d: %w", now.Name, then.Generation, explainKey(err, p.registry))
			}
			opts.Validity = old.ExpiresAt.Sub(old.IssuedAt.Time)
			return target.Decide(then.Content, then.Bundles, now, opts).Issue(old), nil
		}
	}
	return issued
}

// fetchTarget reads what a cluster was asked to run, by its target's tag or digest: with everything taken that the
// target announces.
func (p *publisher) fetchTarget(ctx context.Context, cluster, reference string, verifier *signing.Verifier) (v1alpha1.Target, error) {
	issued, err := p.fetchIssued(ctx, cluster, reference, verifier)
	return rollout.Flatten(issued), err
}

// fetchIssued reads a cluster's target by tag or digest, as it was issued.
func (p *publisher) fetchIssued(ctx context.Context, cluster, reference string, verifier *signing.Verifier) (v1alpha1.Target, error) {
	name := v1alpha1.TargetRepository(cluster)
	repo, err := p.registry.Repository(name)
	if err != nil {
		return v1alpha1.Target{}, err
	}
	desc, err := repo.Resolve(ctx, reference)
	if err != nil {
		return v1alpha1.Target{}, err
	}
	verified, err := verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return v1alpha1.Target{}, err
	}
	return oci.FetchTarget(ctx, repo, verified)
}

// mergeBundles lists the bundles of two publications once.
func mergeBundles(a, b []v1alpha1.IndexBundle) []v1alpha1.IndexBundle {
	all := slices.Concat(a, b)
	slices.SortFunc(all, compareBundles)
	return slices.CompactFunc(all, func(a, b v1alpha1.IndexBundle) bool { return a.Name == b.Name && a.Key == b.Key })
}
