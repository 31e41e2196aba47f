package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
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
}

// Publish brings the fleet into its registry. Running it again with the same input writes nothing.
func Publish(ctx context.Context, opts Options) (Result, error) {
	loaded, err := Load(ctx, opts.LoadOptions)
	if err != nil {
		return Result{}, err
	}
	registry, err := openRegistry(loaded, opts.Registry, opts.OCI)
	if err != nil {
		return Result{}, err
	}
	return publish(ctx, loaded, registry, opts)
}

// openRegistry opens the fleet's registry, or another one that is named instead.
func openRegistry(loaded *Loaded, instead string, opts oci.Options) (oci.Registry, error) {
	prefix := cmp.Or(instead, loaded.Fleet.Spec.Registry)
	if prefix == "" {
		return nil, fmt.Errorf("%s: no registry is named in spec.registry; add it, or pass --registry", FleetFile)
	}
	return oci.Open(prefix, opts)
}

func newPublisher(registry oci.Registry, opts Options) *publisher {
	p := &publisher{Options: opts, registry: registry, jobs: opts.Jobs}
	if p.jobs <= 0 {
		p.jobs = 4 * runtime.GOMAXPROCS(0)
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	return p
}

func publish(ctx context.Context, loaded *Loaded, registry oci.Registry, opts Options) (Result, error) {
	p := newPublisher(registry, opts)
	parent, parentDigest, err := p.readParent(ctx)
	if err != nil {
		return Result{}, err
	}
	if parent.Publication > 0 && parent.Fleet != loaded.Fleet.Name {
		return Result{}, fmt.Errorf("%s holds the fleet %q, not %q; choose another prefix", registry, parent.Fleet, loaded.Fleet.Name)
	}
	result := Result{
		Fleet: loaded.Fleet.Name, Registry: registry.String(), DryRun: p.DryRun,
		Publication: parent.Publication, Digest: parentDigest, Sources: loaded.Sources,
	}
	if loaded.Fleet.Facts, err = p.readFacts(ctx, loaded, parent); err != nil {
		return result, err
	}
	variants, err := p.build(ctx, loaded, parent)
	if err != nil {
		return result, err
	}
	targets, err := p.issue(ctx, loaded, variants, parent)
	if err != nil {
		return result, err
	}
	result.Bundles = variants.results()
	if err := result.addTargets(targets); err != nil {
		return result, err
	}
	index := p.newIndex(parent, parentDigest, loaded.Sources, variants.index(), targets)
	index.Fleet = loaded.Fleet.Name
	if p.DryRun || sameIndex(index, parent) {
		return result, nil
	}
	if err := p.pushBundles(ctx, variants); err != nil {
		return result, err
	}
	return p.commit(ctx, result, parent, index, targets)
}

// commit stores the targets and the index, and then lets agents see them.
func (p *publisher) commit(ctx context.Context, result Result, parent, index v1alpha1.FleetIndex, targets []issuedTarget) (Result, error) {
	if err := p.pushTargets(ctx, targets); err != nil {
		return result, err
	}
	desc, err := p.pushIndex(ctx, index)
	if err != nil {
		return result, err
	}
	if err := p.finish(ctx, parent, index, desc); err != nil {
		return result, err
	}
	result.Publication, result.Digest = index.Publication, desc.Digest.String()
	return result, nil
}

// ownVerifier trusts what this publisher signed, and nothing else.
func (p *publisher) ownVerifier() (*signing.Verifier, error) {
	return signing.NewKeyVerifier("this key", p.Signer.PublicKey())
}

// readParent reads the last publish, and finishes it first when it was interrupted.
func (p *publisher) readParent(ctx context.Context) (v1alpha1.FleetIndex, string, error) {
	verifier, err := p.ownVerifier()
	if err != nil {
		return v1alpha1.FleetIndex{}, "", err
	}
	current, desc, err := readIndex(ctx, p.registry, verifier, v1alpha1.TagCurrent)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return current, "", explainKey(err, p.registry)
	}
	next, nextDesc, err := readIndex(ctx, p.registry, verifier, publicationTag(current.Publication+1))
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return current, desc.Digest.String(), nil
	case err != nil:
		return current, "", explainKey(err, p.registry)
	case p.DryRun:
		return next, nextDesc.Digest.String(), nil
	}
	if err := p.finish(ctx, current, next, nextDesc); err != nil {
		return current, "", fmt.Errorf("finish the interrupted publish %d: %w", next.Publication, err)
	}
	return next, nextDesc.Digest.String(), nil
}

func explainKey(err error, registry oci.Registry) error {
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return fmt.Errorf("%s was published with another key; use that one, or another prefix: %w", registry, err)
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
		facts[cluster.Name] = target.Facts{Kubernetes: cluster.Kubernetes, Agent: cluster.Agent}
	}
	return facts, nil
}

// issuedTarget is one cluster's target with what is done to it.
type issuedTarget struct {
	target   v1alpha1.Target
	artifact oci.Artifact
	result   TargetResult
	index    v1alpha1.IndexCluster
}

// issue computes every cluster's target and decides whether it is published.
func (p *publisher) issue(ctx context.Context, loaded *Loaded, variants variants, parent v1alpha1.FleetIndex) ([]issuedTarget, error) {
	previous := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range parent.Clusters {
		previous[cluster.Name] = cluster
	}
	opts := target.Options{Now: p.Now(), Validity: loaded.Fleet.Spec.Validity.Duration, AllowPrune: p.AllowPrune}
	issued := make([]issuedTarget, len(loaded.Fleet.Clusters))
	err := p.each(ctx, len(issued), func(ctx context.Context, i int) error {
		plan, err := loaded.Fleet.PlanCluster(i)
		if err != nil {
			return err
		}
		name := plan.Cluster.Metadata.Name
		before, known := previous[name]
		if !known {
			// A cluster that comes back goes on from the generation that its agent knows.
			if before.Generation, err = p.lastGeneration(ctx, name); err != nil {
				return fmt.Errorf("cluster %s: %w", name, err)
			}
		}
		next, action, reason := target.Issue(loaded.Fleet.Assemble(plan, variants.artifact), before, opts)
		before.Name, before.Labels, before.StatusKey = name, plan.Cluster.Metadata.Labels, plan.Cluster.Spec.StatusKey
		issued[i] = newIssued(before, next, action, reason)
		return nil
	})
	return issued, err
}

// newIssued says what becomes of a cluster's entry in the index.
func newIssued(before v1alpha1.IndexCluster, next v1alpha1.Target, action target.Action, reason string) issuedTarget {
	if action == target.Unchanged {
		return kept(before)
	}
	data, err := json.Marshal(next)
	if err != nil {
		panic(err) // values are JSON types only
	}
	out := issuedTarget{target: next, index: before}
	out.artifact = oci.Artifact{Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: data}}}
	out.index.Generation, out.index.ExpiresAt = next.Generation, next.ExpiresAt
	out.index.Content, out.index.Digest = target.Content(next), out.artifact.Descriptor().Digest.String()
	out.index.Bundles = nil
	for _, bundle := range next.Bundles {
		out.index.Bundles = append(out.index.Bundles, bundle.Name)
	}
	out.result = TargetResult{
		Cluster: next.Cluster, Action: action, Reason: reason, Bundles: len(next.Bundles),
		Generation: out.index.Generation, Digest: out.index.Digest,
	}
	return out
}

// lastGeneration returns the generation that the registry holds for a cluster that the index doesn't know.
func (p *publisher) lastGeneration(ctx context.Context, cluster string) (int64, error) {
	repo, err := p.registry.Repository(v1alpha1.TargetRepository(cluster))
	if err != nil {
		return 0, err
	}
	// Only an absent tag means that there was none: damage behind one must not start the count again.
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	verifier, err := p.ownVerifier()
	if err != nil {
		return 0, err
	}
	last, err := p.fetchTarget(ctx, cluster, desc.Digest.String(), verifier)
	return last.Generation, explainKey(err, p.registry)
}

// pushTargets stores and signs the targets that changed, under their generation only.
func (p *publisher) pushTargets(ctx context.Context, targets []issuedTarget) error {
	changed := slices.DeleteFunc(slices.Clone(targets), func(t issuedTarget) bool { return t.result.Action == target.Unchanged })
	progress := p.stage("target", len(changed))
	return p.each(ctx, len(changed), func(ctx context.Context, i int) error {
		t := changed[i]
		repo, err := p.registry.Repository(v1alpha1.TargetRepository(t.target.Cluster))
		if err != nil {
			return err
		}
		desc, _, err := oci.Push(ctx, repo, t.artifact, generationTag(t.target.Generation))
		if err != nil {
			return err
		}
		if _, err := p.Signer.Sign(ctx, repo, desc); err != nil {
			return err
		}
		progress(t.target.Cluster, t.result.Action)
		return nil
	})
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
	}
	for _, t := range targets {
		index.Clusters = append(index.Clusters, t.index)
	}
	return index
}

// sameIndex reports whether publishing would change nothing but the number and commits that touched no bundle.
func sameIndex(index, parent v1alpha1.FleetIndex) bool {
	index.Publication, index.Parent, index.IssuedAt, index.Sources = parent.Publication, parent.Parent, parent.IssuedAt, parent.Sources
	a, errA := json.Marshal(index)
	b, errB := json.Marshal(parent)
	return errA == nil && errB == nil && string(a) == string(b)
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
