package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// registryPatience bounds one attempt at one registry, so that a dead first one doesn't keep the second from answering.
const registryPatience = 2 * time.Minute

// fetchParallel bounds bundles fetched at once: links are thin, and each holds a layer in memory.
const fetchParallel = 4

// taken is a target whose every byte is verified and on the disk.
type taken struct {
	target   *v1alpha1.Target
	manifest ocispec.Descriptor
	signers  []string
	fetched  int // bundles that came over the network
}

// pull is the network half of the sync line: resolve, verify, accept, fetch. It returns nil when the target in force is
// current. Nothing on the cluster changes; what was accepted is made durable before anything is applied.
func (a *Agent) pull(ctx context.Context, inForce *ocispec.Descriptor, running, kept []v1alpha1.TargetBundle) (*taken, error) {
	var problems error
	for _, registry := range a.cfg.Registries {
		attempt, cancel := context.WithTimeout(ctx, registryPatience)
		result, err := a.pullFrom(attempt, registry, inForce, running, kept)
		cancel()
		if err == nil || !errors.Is(err, oci.ErrUnreachable) && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return result, err
		}
		if problems == nil {
			problems = err // the preferred registry's is what people want to read
		}
	}
	return nil, problems
}

func (a *Agent) pullFrom(ctx context.Context, registry oci.Registry, inForce *ocispec.Descriptor, running, kept []v1alpha1.TargetBundle) (*taken, error) {
	name := v1alpha1.TargetRepository(a.cfg.Cluster)
	repo, err := registry.Repository(name)
	if err != nil {
		return nil, problem(StageResolve, "target", err)
	}
	started := a.now()
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	a.metrics.observe("resolve", a.now().Sub(started))
	if err != nil {
		return nil, problem(StageResolve, fmt.Sprintf("target %s:%s", repo, v1alpha1.TagCurrent), err)
	}
	a.contact.Store(int64(a.age()))
	if inForce != nil && desc.Digest == inForce.Digest {
		return nil, nil
	}
	subject := fmt.Sprintf("target %s@%s", repo, desc.Digest)
	if err := a.refreshTrust(ctx, registry); err != nil {
		return nil, err
	}
	repo = oci.Remember(repo)

	started = a.now()
	verified, err := a.content.verifier.Verify(ctx, repo, name, desc)
	a.metrics.observe("verify", a.now().Sub(started))
	if err != nil {
		return nil, problem(StageVerify, subject, err)
	}
	target, err := oci.FetchTarget(ctx, repo, verified)
	if err != nil {
		return nil, problem(StageFetch, subject, err)
	}
	if err := a.accept(ctx, &target, desc.Digest.String(), running); err != nil {
		return nil, err
	}

	if inForce == nil {
		a.mendKept(ctx, registry, kept)
	}
	started = a.now()
	fetched, err := a.fetchAll(ctx, registry, &target)
	if err == nil {
		err = a.content.copy(ctx, repo, name, verified, v1alpha1.TagCurrent)
	}
	a.metrics.observe("pull", a.now().Sub(started))
	if err != nil {
		return nil, problem(StageFetch, subject, err)
	}
	result := &taken{target: &target, manifest: verified.Descriptor(), signers: verified.Signers(), fetched: fetched}
	if err := a.rememberTarget(result); err != nil {
		return nil, err
	}
	if err := a.content.collect(ctx, &target, desc, slices.Concat(kept, announced(&target))); err != nil {
		a.log.Warn("content that is no longer needed stays on the disk", "stage", StageState, "error", err)
	}
	a.metrics.skew(a.now(), &target)
	return result, nil
}

// rememberTarget makes it durable that a target whose every byte is on the disk is the one to be enforced. Only then may
// content of the one before be removed: a power cut must leave one of them whole.
func (a *Agent) rememberTarget(result *taken) error {
	next := a.remembrance()
	next.Target, next.Seen, next.Signers = &result.manifest, a.now(), result.signers
	if err := a.cfg.State.Remember(next); err != nil {
		return err
	}
	a.mu.Lock()
	a.remembered = next
	a.mu.Unlock()
	return nil
}

// accept refuses what is not for this cluster, old, expired, malformed or too destructive, and makes the acceptance
// durable, on disk and in the cluster.
func (a *Agent) accept(ctx context.Context, target *v1alpha1.Target, digest string, running []v1alpha1.TargetBundle) error {
	remembered := a.remembrance()
	known, inForce := remembered.Known, ""
	if remembered.Target != nil {
		inForce = remembered.Target.Digest.String()
	}
	if refusal := accept(target, digest, known, identity{fleet: a.cfg.Fleet, cluster: a.cfg.Cluster}, inForce, a.now()); refusal != nil {
		return refusal
	}
	if refusal := validate(target); refusal != nil {
		return refusal
	}
	if refusal := guardPrune(target, running); refusal != nil {
		return refusal
	}
	if target.Generation < known.Generation {
		return nil // the one in force; what was accepted after it stays known
	}
	accepted := Known{Generation: target.Generation, Digest: digest, Latest: target.IssuedAt.Time, Trust: known.Trust}
	if accepted.Latest.Before(known.Latest) {
		accepted.Latest = known.Latest
	}
	if a.durable(accepted) {
		return nil
	}
	return a.remember(ctx, accepted)
}

// fetchAll brings every bundle of the target onto the disk, verified. The first failure ends it.
func (a *Agent) fetchAll(ctx context.Context, registry oci.Registry, target *v1alpha1.Target) (int, error) {
	fetched := make([]bool, len(target.Bundles))
	end := oci.Batch(a.cfg.Content)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchParallel)
	for i := range target.Bundles {
		group.Go(func() error {
			var err error
			fetched[i], err = a.content.fetch(ctx, registry, &target.Bundles[i])
			return err
		})
	}
	err := errors.Join(group.Wait(), end())
	count := 0
	for _, one := range fetched {
		if one {
			count++
		}
	}
	return count, err
}

// mendKept fetches again what is damaged of the versions that are enforced although the target names others. The
// registry may have lost them; that is no reason not to take the target.
func (a *Agent) mendKept(ctx context.Context, registry oci.Registry, kept []v1alpha1.TargetBundle) {
	for i := range kept {
		if _, err := a.content.fetch(ctx, registry, &kept[i]); err != nil {
			a.log.Debug("a version that is kept for later is not whole", "stage", StageFetch, "bundle", kept[i].Name, "error", err)
		}
	}
}

// retryAfter returns how long a server asked to be left alone; zero when it didn't.
func retryAfter(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return 0
}
