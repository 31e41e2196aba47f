package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
)

// PruneOptions of [Prune].
type PruneOptions struct {
	// Verifier says whose publications are read.
	Verifier *signing.Verifier
	// Keep is how many publications stay; what the fleet says when zero.
	Keep int
	// DryRun lists and removes nothing.
	DryRun bool
	// Jobs bounds requests at the same time; four per processor when zero.
	Jobs int
	// Progress receives steps, one at a time; may be nil.
	Progress func(Event)
}

// PruneResult says what was removed, with its signatures, or would be.
type PruneResult struct {
	Fleet    string `json:"fleet"`
	Registry string `json:"registry"`
	DryRun   bool   `json:"dryRun,omitempty"`
	// Publications are the numbers of fleet indexes.
	Publications []int64 `json:"publications"`
	// Targets counts clusters' generations.
	Targets int             `json:"targets"`
	Bundles []RemovedBundle `json:"bundles"`
}

// RemovedBundle is one artifact of a bundle.
type RemovedBundle struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Prune removes publications older than the last ones from a registry, with the targets and bundles that only they name.
// What a cluster may still run stays: the targets of clusters that left the fleet, and what these and clusters in the
// middle of a rollout name. Nothing that Pinnace didn't publish is touched. It is [oci.ErrUnsupported] where the
// registry doesn't allow deletion, and goes on where it was interrupted.
func Prune(ctx context.Context, registry oci.Registry, opts PruneOptions) (PruneResult, error) {
	index, _, err := ReadIndex(ctx, registry, opts.Verifier)
	if err != nil {
		return PruneResult{}, err
	}
	p := newPublisher(registry, Options{Jobs: opts.Jobs, Progress: opts.Progress, DryRun: opts.DryRun})
	if opts.Keep > 0 {
		index.History = opts.Keep
	}
	return p.prune(ctx, index, opts.Verifier)
}

// prune removes what the publications beyond the index's history have left.
func (p *publisher) prune(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier) (PruneResult, error) {
	result := PruneResult{
		Fleet: index.Fleet, Registry: p.registry.String(), DryRun: p.DryRun, Publications: []int64{}, Bundles: []RemovedBundle{},
	}
	if index.History <= 0 {
		return result, nil
	}
	repo, err := p.registry.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		return result, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return result, err
	}
	// The oldest first: each is compared with the one after it.
	for _, publication := range publications(tags) {
		if publication > index.Publication-int64(index.History) {
			break
		}
		if err := p.prunePublication(ctx, repo, publication, verifier, &result); err != nil {
			return result, fmt.Errorf("remove publication %d: %w", publication, err)
		}
	}
	if err := p.pruneBundles(ctx, index, verifier, &result); err != nil {
		return result, err
	}
	return result, p.pruneClaims(ctx, repo, tags, index.Publication)
}

// publications returns the numbers of pub-<n>, sorted.
func publications(tags []string) []int64 {
	var numbers []int64
	for _, tag := range tags {
		text, is := strings.CutPrefix(tag, "pub-")
		if number, err := strconv.ParseInt(text, 10, 64); is && err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

func (p *publisher) prunePublication(ctx context.Context, repo oci.Repository, publication int64, verifier *signing.Verifier, result *PruneResult) error {
	index, desc, err := readIndex(ctx, p.registry, verifier, v1alpha1.PublicationTag(publication))
	if err != nil {
		return err
	}
	next, _, err := readIndex(ctx, p.registry, verifier, v1alpha1.PublicationTag(publication+1))
	if err != nil {
		return err
	}
	gone := superseded(index, next)
	result.Publications = append(result.Publications, publication)
	result.Targets += len(gone)
	if p.DryRun {
		return nil
	}
	progress := p.stage("prune", len(gone))
	err = p.each(ctx, len(gone), func(ctx context.Context, i int) error {
		targets, err := p.registry.Repository(v1alpha1.TargetRepository(gone[i].Name))
		if err == nil {
			err = discard(ctx, targets, gone[i].Digest)
		}
		progress(gone[i].Name, "", 0)
		return err
	})
	if err != nil {
		return err
	}
	return discard(ctx, repo, desc.Digest.String()) // last, so that an interrupted prune begins with it again
}

func (p *publisher) pruneBundles(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier, result *PruneResult) error {
	retired := due(index, index.History)
	if len(retired) == 0 {
		return nil
	}
	held, err := p.held(ctx, index, verifier)
	if err != nil {
		return err
	}
	retired = slices.DeleteFunc(retired, func(r v1alpha1.RetiredBundle) bool { return held[r.Digest] })
	removed := make([]bool, len(retired))
	err = p.each(ctx, len(retired), func(ctx context.Context, i int) error {
		repo, err := p.registry.Repository(v1alpha1.BundleRepository(retired[i].Name))
		if err != nil {
			return err
		}
		if _, err = repo.Resolve(ctx, retired[i].Digest); errors.Is(err, oci.ErrNotFound) {
			return nil // removed before
		}
		removed[i] = err == nil
		if err == nil && !p.DryRun {
			err = discard(ctx, repo, retired[i].Digest)
		}
		return err
	})
	for i := range retired {
		if removed[i] {
			result.Bundles = append(result.Bundles, RemovedBundle{Name: retired[i].Name, Digest: retired[i].Digest})
		}
	}
	return err
}

// held returns the digests of bundles that targets name beside those in the index.
func (p *publisher) held(ctx context.Context, index v1alpha1.FleetIndex, verifier *signing.Verifier) (map[string]bool, error) {
	clusters := slices.Clone(index.Departed)
	for _, cluster := range index.Clusters {
		if len(cluster.Rollouts) > 0 {
			clusters = append(clusters, cluster)
		}
	}
	var mu sync.Mutex
	held := map[string]bool{}
	err := p.each(ctx, len(clusters), func(ctx context.Context, i int) error {
		last, err := p.fetchIssued(ctx, clusters[i].Name, clusters[i].Digest, verifier) // with what holds until its rollouts
		if errors.Is(err, oci.ErrNotFound) {
			return nil // somebody removed its repository
		}
		if err != nil {
			return fmt.Errorf("cluster %s: %w", clusters[i].Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, bundle := range last.Bundles {
			held[bundle.Digest] = true
		}
		return nil
	})
	return held, err
}

// pruneClaims removes the claims on publications that were made. All claims on one are the same manifest.
func (p *publisher) pruneClaims(ctx context.Context, repo oci.Repository, tags []string, made int64) error {
	done := map[int64]bool{}
	for _, tag := range tags {
		id, is := strings.CutPrefix(tag, claimPrefix)
		number, _, _ := strings.Cut(id, "-")
		publication, err := strconv.ParseInt(number, 10, 64)
		if !is || err != nil || publication >= made || done[publication] || p.DryRun {
			continue
		}
		done[publication] = true
		desc, err := repo.Resolve(ctx, tag)
		if err == nil {
			err = repo.Delete(ctx, desc)
		}
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			return err
		}
	}
	return nil
}

// discard removes a manifest and what is attached to it. What is gone already is no error.
func discard(ctx context.Context, repo oci.Repository, of string) error {
	subject := manifestOf(digest.Digest(of))
	signature, err := repo.Resolve(ctx, oci.SignatureTag(subject.Digest))
	switch {
	case err == nil:
		err = repo.Delete(ctx, manifestOf(signature.Digest))
	case errors.Is(err, oci.ErrNotFound):
		err = discardReferrers(ctx, repo, subject)
	}
	if err == nil || errors.Is(err, oci.ErrNotFound) {
		err = repo.Delete(ctx, subject)
	}
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	return err
}

// manifestOf is a manifest of the old kind, which belongs to no other: so it is deleted without being read before. The
// index of those that belong to a manifest goes as a whole.
func manifestOf(of digest.Digest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: oci.MediaTypeDockerManifest, Digest: of}
}

func discardReferrers(ctx context.Context, repo oci.Repository, subject ocispec.Descriptor) error {
	attached, err := oci.Referrers(ctx, repo, subject)
	if err != nil {
		return err
	}
	for _, desc := range attached {
		if err := repo.Delete(ctx, manifestOf(desc.Digest)); err != nil && !errors.Is(err, oci.ErrNotFound) {
			return err
		}
	}
	index, err := repo.Resolve(ctx, oci.ReferrersTag(subject.Digest))
	if err != nil {
		return err
	}
	return repo.Delete(ctx, manifestOf(index.Digest))
}

// pruneAfter removes what is old after a publish. It is no reason to fail: what stays is looked at by the next one.
func (p *publisher) pruneAfter(ctx context.Context, index v1alpha1.FleetIndex, result *Result) {
	verifier, err := p.ownVerifier(ctx)
	var pruned PruneResult
	if err == nil {
		pruned, err = p.prune(ctx, index, verifier)
	}
	if len(pruned.Publications)+len(pruned.Bundles) > 0 {
		result.Pruned = &pruned
	}
	if err != nil && !errors.Is(err, oci.ErrUnsupported) {
		result.Warnings = append(result.Warnings, fmt.Sprintf("what only older publications name stays in the registry: %v; allow deletion there, or keep everything with history: -1 in the fleet's spec", err))
	}
}

// abandon takes back what a publish stored that came too late: generations of clusters belong to whom agents follow.
func (p *publisher) abandon(ctx context.Context, publication int64, targets []issuedTarget) error {
	verifier, err := p.ownVerifier(ctx)
	if err != nil {
		return err
	}
	winner, _, err := readIndex(ctx, p.registry, verifier, v1alpha1.PublicationTag(publication))
	if err != nil {
		return err
	}
	theirs := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range winner.Clusters {
		theirs[cluster.Name] = cluster
	}
	return p.each(ctx, len(targets), func(ctx context.Context, i int) error {
		t := &targets[i]
		if t.result.Action == target.Unchanged || t.index.Digest == "" {
			return nil
		}
		repo, err := p.registry.Repository(v1alpha1.TargetRepository(t.index.Name))
		if err != nil {
			return err
		}
		their := theirs[t.index.Name]
		if their.Digest == t.index.Digest {
			return nil // the same second, the same content
		}
		if their.Generation == t.index.Generation {
			desc, err := repo.Resolve(ctx, their.Digest)
			if err == nil {
				err = repo.Tag(ctx, desc, v1alpha1.GenerationTag(their.Generation))
			}
			if err != nil {
				return err
			}
		}
		if err := discard(ctx, repo, t.index.Digest); !errors.Is(err, oci.ErrUnsupported) && !errors.Is(err, oci.ErrUnauthorized) {
			return err
		}
		return nil
	})
}
