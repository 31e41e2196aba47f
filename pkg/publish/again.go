package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
)

// Where the key that publishes changes, agents soon trust the new one alone, and would refuse whatever stayed as it was.
// So the new key signs that too, beside the one before: bundles first, then the targets that name them, and the last
// publish's index in the end. So where that has the new key's signature, everything that is in force has it: a run that
// was interrupted is refused without the earlier keys, and begun again with them.

// signable is an artifact that is to be signed.
type signable struct{ repository, digest string }

// signAgain signs what a publication has in force with this publisher's key, where earlier signers are named. It returns
// how many artifacts got a signature, or with DryRun would get one; those that have it are left alone.
func (p *publisher) signAgain(ctx context.Context, index v1alpha1.FleetIndex, digest string) (int, error) {
	if len(p.PreviousKeys) == 0 && p.PreviousPolicy == nil || index.Publication == 0 {
		return 0, nil
	}
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return 0, err
	}
	bundles, targets, err := p.targetsInForce(ctx, index, verifier)
	if err != nil {
		return 0, err
	}
	rollouts, err := p.rolloutsInForce(ctx, index, verifier)
	if err != nil {
		return 0, err
	}
	journal, err := p.journal(ctx, index, verifier)
	if err != nil {
		return 0, err
	}
	progress := p.stage("sign", len(bundles)+len(rollouts)+len(targets)+len(journal)+1)
	signed := 0
	for _, list := range [][]signable{bundles, append(rollouts, targets...), journal, {{v1alpha1.RepositoryFleet, digest}}} {
		n, err := p.signAll(ctx, list, func(name string) { progress(name, "", 0) })
		if signed += n; err != nil {
			return signed, fmt.Errorf("sign again what an earlier signer signed: %w; run it again to go on", err)
		}
	}
	return signed, nil
}

// targetsInForce are those of all clusters, also of those that left and may still run theirs, and every bundle that they
// name or announce, or that the next publish may give without building it.
func (p *publisher) targetsInForce(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier) (bundles, targets []signable, err error) {
	clusters := slices.Concat(index.Clusters, index.Departed)
	var mu sync.Mutex
	named := map[signable]bool{}
	for _, bundle := range index.Bundles {
		named[signable{v1alpha1.BundleRepository(bundle.Name), bundle.Digest}] = true
	}
	progress := p.stage("inspect", len(clusters))
	err = p.each(ctx, len(clusters), func(ctx context.Context, i int) error {
		cluster := clusters[i]
		issued, err := p.fetchIssued(ctx, cluster.Name, cluster.Digest, verifier)
		if errors.Is(err, oci.ErrNotFound) {
			return nil // somebody removed it
		}
		if err != nil {
			return fmt.Errorf("cluster %s: generation %d: %w", cluster.Name, cluster.Generation, explainKey(err, p.registry))
		}
		progress(cluster.Name, "", 0)
		mu.Lock()
		defer mu.Unlock()
		targets = append(targets, signable{v1alpha1.TargetRepository(cluster.Name), cluster.Digest})
		for _, bundle := range issued.Bundles {
			named[signable{bundle.Repository, bundle.Digest}] = true
		}
		for _, rollout := range issued.Rollouts {
			for _, bundle := range rollout.Bundles {
				named[signable{bundle.Repository, bundle.Digest}] = true
			}
		}
		return nil
	})
	return slices.Collect(maps.Keys(named)), targets, err
}

// rolloutsInForce are the plans and gates of every rollout that a cluster was told of, or may be again.
func (p *publisher) rolloutsInForce(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier) ([]signable, error) {
	names := map[string]bool{v1alpha1.RolloutFleet: true}
	for _, name := range gates.Names(index) {
		names[name] = true
	}
	for _, source := range index.Sources {
		names[v1alpha1.RolloutOfSource(source.Name)] = true
	}
	for _, bundle := range index.Bundles {
		names[v1alpha1.RolloutOfBundle(bundle.Name)] = true
	}
	list := slices.Collect(maps.Keys(names))
	var mu sync.Mutex
	var found []signable
	err := p.each(ctx, len(list), func(ctx context.Context, i int) error {
		documents, err := gates.Documents(ctx, p.registry, verifier, list[i])
		mu.Lock()
		defer mu.Unlock()
		for _, digest := range documents {
			found = append(found, signable{v1alpha1.RolloutRepository(list[i]), digest.String()})
		}
		return err
	})
	return found, err
}

// journal is what other publications left that the registry still has: they are read to be removed. Those that keys of
// a further past signed are none of this publisher's.
func (p *publisher) journal(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier) ([]signable, error) {
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	numbers := slices.DeleteFunc(publications(tags), func(n int64) bool { return n == index.Publication })
	var mu sync.Mutex
	var found []signable
	err = p.each(ctx, len(numbers), func(ctx context.Context, i int) error {
		desc, err := repo.Resolve(ctx, v1alpha1.PublicationTag(numbers[i]))
		if err == nil {
			_, err = verifier.Verify(ctx, repo, v1alpha1.RepositoryFleet, desc)
		}
		var refusal *signing.Error
		switch {
		case errors.Is(err, oci.ErrNotFound), errors.As(err, &refusal):
			return nil
		case err != nil:
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found = append(found, signable{v1alpha1.RepositoryFleet, desc.Digest.String()})
		return nil
	})
	return found, err
}

// signAll signs artifacts that this key did not sign before, and counts them. What the registry lost is passed over.
func (p *publisher) signAll(ctx context.Context, list []signable, progress func(repository string)) (int, error) {
	var signed atomic.Int64
	items := make([]signing.Item, len(list)) // for batches
	err := p.each(ctx, len(list), func(ctx context.Context, i int) error {
		repo, err := p.registry.Repository(list[i].repository)
		if err != nil {
			return err
		}
		desc, err := repo.Resolve(ctx, list[i].digest)
		if errors.Is(err, oci.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var isNew bool
		if p.DryRun || p.Signer.Batches() {
			var is bool
			is, err = p.Signer.Signed(ctx, repo, desc)
			isNew = !is
		} else {
			isNew, err = p.Signer.Sign(ctx, repo, desc)
		}
		if err != nil {
			return err
		}
		if isNew {
			signed.Add(1)
			items[i] = signing.Item{Repository: repo, Descriptor: desc}
		}
		progress(list[i].repository)
		return nil
	})
	if err != nil || p.DryRun || !p.Signer.Batches() {
		return int(signed.Load()), err
	}
	items = slices.DeleteFunc(items, func(item signing.Item) bool { return item.Repository == nil })
	_, err = p.Signer.SignAll(ctx, items, p.jobs)
	return len(items), err
}
