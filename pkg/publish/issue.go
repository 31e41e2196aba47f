package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
)

// issuedTarget is one cluster's target with what is done to it. Targets are not kept: those of thousands of clusters
// would fill the memory. They are made again when they are pushed.
type issuedTarget struct {
	result TargetResult
	// index is the cluster's entry; its digest and times are set when the target is pushed.
	index v1alpha1.IndexCluster
	// make returns the target, issued; nil when nothing is done.
	make func(ctx context.Context) (v1alpha1.Target, error)
	// manifest is what was pushed.
	manifest oci.Blob
}

// kept is a cluster that nothing is done to.
func kept(cluster v1alpha1.IndexCluster) issuedTarget {
	return issuedTarget{index: cluster, result: TargetResult{
		Cluster: cluster.Name, Action: target.Unchanged, Generation: cluster.Generation, Digest: cluster.Digest, Bundles: len(cluster.Bundles),
	}}
}

// decided is a cluster that gets a target with that content and those bundles.
func decided(before v1alpha1.IndexCluster, content string, bundles []string, decision target.Decision) issuedTarget {
	if decision.Action == target.Unchanged {
		return kept(before)
	}
	out := issuedTarget{index: before}
	out.index.Content, out.index.Bundles, out.index.Digest = content, bundles, ""
	out.index.Generation = before.Generation + 1
	out.result = TargetResult{
		Cluster: before.Name, Action: decision.Action, Reason: decision.Reason, Bundles: len(bundles), Generation: out.index.Generation,
	}
	return out
}

// decide says for every cluster whether its target is published.
func (p *publisher) decide(ctx context.Context, loaded *Loaded, drafts []draft, built variants, parent v1alpha1.FleetIndex) ([]issuedTarget, error) {
	previous := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range parent.Clusters {
		previous[cluster.Name] = cluster
	}
	opts := target.Options{Now: p.Now(), Validity: loaded.Fleet.Spec.Validity.Duration, AllowPrune: p.AllowPrune}
	issued := make([]issuedTarget, len(drafts))
	err := p.each(ctx, len(drafts), func(ctx context.Context, i int) error {
		cluster := &loaded.Fleet.Clusters[i]
		before, known := previous[cluster.Metadata.Name]
		if !known {
			// A cluster that comes back goes on from the generation that its agent knows.
			var err error
			if before.Generation, err = p.lastGeneration(ctx, cluster.Metadata.Name); err != nil {
				return fmt.Errorf("cluster %s: %w", cluster.Metadata.Name, err)
			}
		}
		before.Name, before.Labels, before.StatusKey = cluster.Metadata.Name, cluster.Metadata.Labels, cluster.Spec.StatusKey
		content, bundles := drafts[i].content(), drafts[i].bundles()
		assemble := func(context.Context) (v1alpha1.Target, error) {
			plan, err := loaded.Fleet.PlanCluster(i)
			return loaded.Fleet.Assemble(plan, built.artifact), err
		}
		if loaded.kept.any() {
			assemble = p.keeping(loaded, before, assemble)
			next, err := assemble(ctx)
			if err != nil {
				return err
			}
			content, bundles = target.Content(next), target.BundleNames(next)
		}
		decision := target.Decide(content, bundles, before, opts)
		issued[i] = decided(before, content, bundles, decision)
		issued[i].make = func(ctx context.Context) (v1alpha1.Target, error) {
			next, err := assemble(ctx)
			if err == nil {
				err = p.seal(ctx, loaded.Fleet, i, &next, before)
			}
			return decision.Issue(next), err
		}
		return nil
	})
	return issued, err
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
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return 0, err
	}
	last, err := p.fetchTarget(ctx, cluster, desc.Digest.String(), verifier)
	return last.Generation, explainKey(err, p.registry)
}

// pushTargets stores and signs the targets that changed, under their generation only.
func (p *publisher) pushTargets(ctx context.Context, targets []issuedTarget) error {
	var changed []*issuedTarget
	for i := range targets {
		if targets[i].result.Action != target.Unchanged {
			changed = append(changed, &targets[i])
		}
	}
	progress := p.stage("target", len(changed))
	items := make([]signing.Item, len(changed))
	err := p.each(ctx, len(changed), func(ctx context.Context, i int) (err error) {
		var size int64
		if items[i], size, err = p.pushTarget(ctx, changed[i]); err != nil {
			return err
		}
		progress(changed[i].result.Cluster, changed[i].result.Action, size)
		return nil
	})
	if err != nil || !p.Signer.Batches() {
		return err
	}
	_, err = p.Signer.SignAll(ctx, items, p.jobs)
	return err
}

// pushTarget makes a target, stores it and signs it, where a signature takes no time.
func (p *publisher) pushTarget(ctx context.Context, t *issuedTarget) (signing.Item, int64, error) {
	next, err := t.make(ctx)
	if err != nil {
		return signing.Item{}, 0, err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return signing.Item{}, 0, fmt.Errorf("target of cluster %s: %w", next.Cluster, err)
	}
	if len(data) > oci.MaxTarget {
		return signing.Item{}, 0, fmt.Errorf("target of cluster %s: %w: %d bytes, and agents read at most %d; keep large values in a ConfigMap of a bundle",
			next.Cluster, oci.ErrTooLarge, len(data), oci.MaxTarget)
	}
	repo, err := p.registry.Repository(v1alpha1.TargetRepository(next.Cluster))
	if err != nil {
		return signing.Item{}, 0, err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: data}}}
	push := oci.PushNew
	if next.Generation > 1 {
		push = oci.PushNext // the one before has the same config
	}
	manifest, err := push(ctx, repo, artifact, v1alpha1.GenerationTag(next.Generation))
	desc := manifest.Descriptor()
	if err == nil && !p.Signer.Batches() {
		err = p.Signer.SignNew(ctx, repo, desc)
	}
	t.manifest = manifest
	t.index.Digest, t.index.ExpiresAt = desc.Digest.String(), next.ExpiresAt
	t.result.Digest = t.index.Digest
	return signing.Item{Repository: repo, Descriptor: desc}, int64(len(data)), err
}

func indexed(targets []issuedTarget) []v1alpha1.IndexCluster {
	clusters := make([]v1alpha1.IndexCluster, len(targets))
	for i := range targets {
		clusters[i] = targets[i].index
	}
	return clusters
}

// manifestsOf returns what was pushed, by cluster.
func manifestsOf(targets []issuedTarget) map[string]oci.Blob {
	manifests := map[string]oci.Blob{}
	for i := range targets {
		if targets[i].manifest.Data != nil {
			manifests[targets[i].index.Name] = targets[i].manifest
		}
	}
	return manifests
}
