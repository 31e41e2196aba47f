package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/status"
)

// Options of [Publish].
type Options struct {
	LoadOptions
	// Registry replaces the fleet's when set.
	Registry string
	Signer   *signing.Signer
	// PreviousKeys are those that the signer's follows. What they signed counts, and what is in force of it is signed again
	// by the signer, beside.
	PreviousKeys []v1alpha1.PublicKey
	// PreviousPolicy says the same of what keys alone don't say: identities, several signers. None when nil.
	PreviousPolicy *signing.Verifier
	// SealKey identifies secret values; see [target.Fleet]. It must be the same in every publish, and secret.
	SealKey []byte
	// AllowPrune permits removing more than half of what a cluster runs.
	AllowPrune bool
	// DryRun builds and decides, and writes nothing.
	DryRun bool
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Jobs bounds builds and pushes at the same time; four per processor when zero.
	Jobs int
	// Progress receives steps, one at a time; may be nil.
	Progress func(Event)
}

type publisher struct {
	Options
	registry oci.Registry
	jobs     int
	shelf    shelf
}

// Publish brings the fleet into its registry. Running it again with the same input writes nothing.
func Publish(ctx context.Context, opts Options) (Result, error) {
	return publishFrom(ctx, &lastPublish{opts: opts}, opts)
}

// openRegistry opens the fleet's registry, or another one that is named instead.
func openRegistry(fleet *target.Fleet, instead string, opts oci.Options) (oci.Registry, error) {
	prefix := cmp.Or(instead, fleet.Spec.Registry)
	if prefix == "" {
		return nil, fmt.Errorf("%s: no registry is named in spec.registry; add it, or pass --registry", FleetFile)
	}
	return oci.Open(prefix, opts)
}

func newPublisher(registry oci.Registry, opts Options) *publisher {
	p := &publisher{Options: opts, registry: registry, jobs: opts.Jobs}
	p.shelf.folder = opts.CacheDir
	if p.jobs <= 0 {
		p.jobs = 4 * runtime.GOMAXPROCS(0)
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	return p
}

func publish(ctx context.Context, loaded *Loaded, last *lastPublish, opts Options) (Result, error) {
	p := newPublisher(last.registry, opts)
	defer p.shelf.close()
	parent, parentDigest := last.index, last.digest
	result := Result{
		Fleet: loaded.Fleet.Name, Registry: last.registry.String(), DryRun: p.DryRun,
		Publication: parent.Publication, Digest: parentDigest, Sources: loaded.Sources, Warnings: loaded.Warnings,
	}
	var err error
	if loaded.Fleet.Facts, err = p.readFacts(ctx, loaded, parent); err != nil {
		return result, err
	}
	loaded.Fleet.SealKey = p.SealKey
	known := readPlans(p.CacheDir, loaded)
	drafts, variants, err := p.plan(ctx, loaded, &known)
	if err != nil {
		return result, err
	}
	if !p.DryRun {
		if err := known.write(p.CacheDir, loaded.Fleet, drafts); err != nil {
			loaded.Warnings = append(loaded.Warnings, fmt.Sprintf("the next publish plans every cluster anew: %v", err))
		}
	}
	if err := p.build(ctx, loaded.Sources, variants, parent); err != nil {
		return result, err
	}
	targets, err := p.decide(ctx, loaded, drafts, variants, parent)
	if err != nil {
		return result, err
	}
	plans, err := p.announce(ctx, loaded.Fleet, parent, targets)
	if err != nil {
		return result, err
	}
	result.Rollouts = rolloutResults(plans)
	result.Bundles, result.Renders = variants.results(), variants.renders()
	if err := result.addTargets(targets); err != nil {
		return result, err
	}
	index := p.newIndex(parent, parentDigest, loaded.Sources, loaded.kept.index(variants.index(), parent), targets)
	index.Fleet, index.Resolved = loaded.Fleet.Name, loaded.resolved()
	index.History = cmp.Or(loaded.Fleet.Spec.History, DefaultHistory)
	result.Warnings = slices.Compact(slices.Sorted(slices.Values(slices.Concat(loaded.Warnings, loaded.names.Warnings()))))
	if result.SignedAgain, err = p.signAgain(ctx, parent, parentDigest); err != nil {
		return result, err
	}
	if p.DryRun || sameIndex(index, parent) {
		return result, nil
	}
	if err := p.pushBundles(ctx, variants); err != nil {
		return result, err
	}
	if err := p.pushPlans(ctx, plans); err != nil {
		return result, err
	}
	return p.commit(ctx, result, parent, index, targets, variants.revived(parent))
}

// commit stores the targets and the index, and then lets agents see them.
func (p *publisher) commit(ctx context.Context, result Result, parent, index v1alpha1.FleetIndex, targets []issuedTarget, revived variants) (Result, error) {
	if err := p.pushTargets(ctx, targets); err != nil {
		return result, err
	}
	result.Targets, index.Clusters = results(targets), indexed(targets)
	retire(&index, parent)
	desc, err := p.pushIndex(ctx, index)
	if errors.Is(err, ErrConcurrent) {
		if failed := p.abandon(ctx, index.Publication, targets); failed != nil {
			err = fmt.Errorf("%w (and what it stored is left over: %w)", err, failed)
		}
	}
	if err != nil {
		return result, err
	}
	// Whoever published before may have been removing these at the same moment.
	if err := p.pushBundles(ctx, revived); err != nil {
		return result, err
	}
	if err := p.finish(ctx, parent, index, desc, manifestsOf(targets)); err != nil {
		return result, err
	}
	result.Publication, result.Digest = index.Publication, desc.Digest.String()
	p.pruneAfter(ctx, index, &result)
	return result, nil
}

// ownVerifier trusts what this publisher signed, or whom it follows, and nothing else.
func (p *publisher) ownVerifier(ctx context.Context) (*signing.Verifier, error) {
	own, err := p.Signer.Verifier(ctx, p.PreviousKeys...)
	if err != nil || p.PreviousPolicy == nil {
		return own, err
	}
	return own.Or(p.PreviousPolicy), nil
}

// readParent reads the last publish, and finishes it first when it was interrupted.
func (p *publisher) readParent(ctx context.Context) (v1alpha1.FleetIndex, string, error) {
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return v1alpha1.FleetIndex{}, "", err
	}
	current, desc, err := readIndex(ctx, p.registry, verifier, v1alpha1.TagCurrent)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return current, "", explainKey(err, p.registry)
	}
	next, nextDesc, err := readIndex(ctx, p.registry, verifier, v1alpha1.PublicationTag(current.Publication+1))
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return current, desc.Digest.String(), nil
	case err != nil:
		return current, "", explainKey(err, p.registry)
	}
	if err := follows(next, desc); err != nil {
		return current, "", err
	}
	if p.DryRun {
		return next, nextDesc.Digest.String(), nil
	}
	if err := p.finish(ctx, current, next, nextDesc, nil); err != nil {
		return current, "", fmt.Errorf("finish the interrupted publish %d: %w", next.Publication, err)
	}
	return next, nextDesc.Digest.String(), nil
}

func explainKey(err error, registry oci.Registry) error {
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return fmt.Errorf("%s was published with another key; use that one, or another prefix, or name whom this one follows with --previous-key or --previous-policy: %w", registry, err)
	}
	return err
}

// readFacts reads what agents reported of their clusters, where the fleet's rules may use it. Only reports that a
// cluster's key signed count.
func (p *publisher) readFacts(ctx context.Context, loaded *Loaded, parent v1alpha1.FleetIndex) (map[string]target.Facts, error) {
	if !loaded.Fleet.Spec.ReportedFacts {
		return nil, nil
	}
	summary, err := status.Read(ctx, p.registry, parent)
	if err != nil {
		return nil, fmt.Errorf("read what agents reported: %w", err)
	}
	facts := map[string]target.Facts{}
	for _, cluster := range summary.Clusters {
		facts[cluster.Name] = target.Facts{
			Kubernetes: cluster.Kubernetes, Agent: cluster.Agent, Nodes: cluster.Nodes, Architectures: cluster.Architectures,
		}
	}
	return facts, nil
}

func (p *publisher) newIndex(parent v1alpha1.FleetIndex, parentDigest string, sources []v1alpha1.IndexSource,
	bundles []v1alpha1.IndexBundle, targets []issuedTarget,
) v1alpha1.FleetIndex {
	index := v1alpha1.FleetIndex{
		TypeMeta:    v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindFleetIndex},
		Fleet:       parent.Fleet,
		Publication: parent.Publication + 1,
		Parent:      parentDigest,
		IssuedAt:    metav1.NewTime(p.Now().UTC().Truncate(time.Second)),
		Sources:     sources,
		Bundles:     bundles,
		History:     parent.History,
	}
	index.Clusters = indexed(targets)
	return index
}

// sameIndex reports whether publishing would change nothing but the number and commits that touched no bundle.
func sameIndex(index, parent v1alpha1.FleetIndex) bool {
	return index.Fleet == parent.Fleet && slices.Equal(index.Bundles, parent.Bundles) &&
		equality.Semantic.DeepEqual(index.Clusters, parent.Clusters)
}

// each runs do for 0 … n-1, bounded, and returns the first error.
func (p *publisher) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.jobs)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
