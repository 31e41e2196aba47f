package publish

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
)

// earlier is what a fleet is compared with. It may be used concurrently.
type earlier interface {
	clusters() []string
	// target returns what a cluster had: nil when it had nothing, and nil and true when it had that content.
	target(ctx context.Context, cluster, content string) (before *v1alpha1.Target, same bool, err error)
	// layer returns the content of a bundle in such a target.
	layer(ctx context.Context, bundle *v1alpha1.TargetBundle) ([]byte, error)
}

// published is the last publish, in a registry.
type published struct {
	*publisher
	verifier *signing.Verifier
	index    v1alpha1.FleetIndex
	known    map[string]v1alpha1.IndexCluster
}

func newPublished(p *publisher, verifier *signing.Verifier, index v1alpha1.FleetIndex) *published {
	out := &published{publisher: p, verifier: verifier, index: index, known: map[string]v1alpha1.IndexCluster{}}
	for _, cluster := range index.Clusters {
		out.known[cluster.Name] = cluster
	}
	return out
}

func (p *published) clusters() []string {
	var names []string
	for _, cluster := range p.index.Clusters {
		names = append(names, cluster.Name)
	}
	return names
}

func (p *published) target(ctx context.Context, cluster, content string) (*v1alpha1.Target, bool, error) {
	index, known := p.known[cluster]
	if !known || index.Content == content {
		return nil, known, nil
	}
	before, err := p.fetchTarget(ctx, index.Name, index.Digest, p.verifier)
	return &before, false, err
}

func (p *published) layer(ctx context.Context, bundle *v1alpha1.TargetBundle) ([]byte, error) {
	repo, err := p.registry.Repository(bundle.Repository)
	if err != nil {
		return nil, err
	}
	desc, err := repo.Resolve(ctx, bundle.Digest)
	if err != nil {
		return nil, err
	}
	verified, err := p.verifier.Verify(ctx, repo, bundle.Repository, desc)
	if err != nil {
		return nil, err
	}
	fetched, err := oci.FetchBundle(ctx, repo, verified)
	if err != nil {
		return nil, err
	}
	return fetched.Content(ctx)
}

// revision is another state of the fleet repository, planned and built.
type revision struct {
	loaded   *Loaded
	built    variants
	byDigest map[string]*variant
	known    map[string]int
}

func newRevision(ctx context.Context, p *publisher, loaded *Loaded) (*revision, error) {
	out := &revision{loaded: loaded, known: map[string]int{}}
	for i, cluster := range loaded.Fleet.Clusters {
		out.known[cluster.Metadata.Name] = i
	}
	var err error
	out.built, err = p.planAndBuild(ctx, loaded, v1alpha1.FleetIndex{})
	out.byDigest = out.built.byDigest()
	return out, err
}

func (r *revision) clusters() []string {
	var names []string
	for _, cluster := range r.loaded.Fleet.Clusters {
		names = append(names, cluster.Metadata.Name)
	}
	return names
}

func (r *revision) target(_ context.Context, cluster, content string) (*v1alpha1.Target, bool, error) {
	i, known := r.known[cluster]
	if !known {
		return nil, false, nil
	}
	plan, err := r.loaded.Fleet.PlanCluster(i)
	if err != nil {
		return nil, false, err
	}
	before := r.loaded.Fleet.Assemble(plan, r.built.artifact)
	if target.Content(before) == content {
		return nil, true, nil
	}
	return &before, false, nil
}

func (r *revision) layer(ctx context.Context, bundle *v1alpha1.TargetBundle) ([]byte, error) {
	return r.byDigest[bundle.Name+"@"+bundle.Digest].layer(ctx)
}

func (v variants) byDigest() map[string]*variant {
	out := map[string]*variant{}
	for _, variant := range v {
		out[variant.index.Name+"@"+variant.index.Digest] = variant
	}
	return out
}

var commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)

// loadFrom reads the revision of the fleet repository that another one is compared with.
func loadFrom(ctx context.Context, opts DiffOptions) (*Loaded, error) {
	from := opts.LoadOptions
	if !source.IsURL(from.Fleet) {
		dir, err := filepath.Abs(from.Fleet)
		if err != nil {
			return nil, fmt.Errorf("fleet: %w", err)
		}
		from.Fleet = "file://" + filepath.ToSlash(dir)
	}
	if commitHash.MatchString(opts.From) {
		from.Ref = v1alpha1.GitRef{Commit: opts.From}
		return Load(ctx, from)
	}
	from.Ref = v1alpha1.GitRef{Branch: opts.From}
	loaded, err := Load(ctx, from)
	if errors.Is(err, source.ErrNotFound) {
		from.Ref = v1alpha1.GitRef{Tag: opts.From}
		if tagged, tagErr := Load(ctx, from); !errors.Is(tagErr, source.ErrNotFound) {
			return tagged, tagErr
		}
	}
	return loaded, err
}

// readFrom takes the fleet repository's own sources for those of before: a pull request's checkout is a folder, while
// what is published was read by its URL.
func (l *Loaded) readFrom(before []v1alpha1.IndexSource) {
	for _, src := range l.Fleet.Spec.Sources {
		at := slices.IndexFunc(before, func(b v1alpha1.IndexSource) bool { return b.Name == src.Name })
		if at < 0 || src.Git != nil || src.OCI != nil {
			continue
		}
		for i := range l.Fleet.Bundles {
			bundle := &l.Fleet.Bundles[i]
			if bundle.Source.Name != src.Name {
				continue
			}
			bundle.Source.Repository = before[at].Repository
			found := l.found[bundle.Metadata.Name]
			found.Source.Repository = before[at].Repository
			l.found[bundle.Metadata.Name] = found
		}
	}
}
