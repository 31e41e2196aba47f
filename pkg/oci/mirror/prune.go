package mirror

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Pruned is a manifest that is deleted, or would be.
type Pruned struct {
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	Tags       []string      `json:"tags"`
	Error      string        `json:"error,omitempty"`
}

// Prune deletes at a receiver what the newest generations of its targets don't need: older targets and publications,
// bundles that none of the kept targets names, images that none of the kept bundles names, and what is attached to
// these. The current target of every cluster is always kept. The registry frees the space itself, some time after.
//
// Nothing is verified: a registry that lies about its own content only harms itself.
func Prune(ctx context.Context, registry oci.Registry, keep int, dryRun bool) ([]Pruned, error) {
	names, err := oci.Catalog(ctx, registry)
	if errors.Is(err, oci.ErrUnsupported) {
		receipt, _, receiptErr := ReadReceipt(ctx, registry)
		if receiptErr != nil {
			return nil, errors.Join(err, receiptErr)
		}
		names, err = nil, nil
		for name := range receipt.Repositories {
			names = append(names, name)
		}
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	p := &pruning{registry: registry, keep: max(keep, 1), kept: map[string]bool{}}
	for _, name := range names {
		if strings.HasPrefix(name, v1alpha1.TargetRepository("")) || name == v1alpha1.RepositoryFleet {
			if err := p.keepGenerations(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	var pruned []Pruned
	for _, name := range names {
		if !prunable(name) {
			continue
		}
		found, err := p.repository(ctx, name, dryRun)
		pruned = append(pruned, found...)
		if err != nil {
			return pruned, err
		}
	}
	return pruned, nil
}

// prunable repositories are those of which targets say what they need.
func prunable(name string) bool {
	return name == v1alpha1.RepositoryFleet || strings.HasPrefix(name, v1alpha1.TargetRepository("")) ||
		strings.HasPrefix(name, v1alpha1.BundleRepository("")) || strings.HasPrefix(name, oci.RepositoryImages)
}

type pruning struct {
	registry oci.Registry
	keep     int
	kept     map[string]bool // repository@digest, and repository:tag for images without a digest
}

// generations returns the newest tags of a series such as gen-<n>. It is pure.
func generations(tags []string, prefix string, keep int) []string {
	type numbered struct {
		tag string
		n   int64
	}
	var all []numbered
	for _, tag := range tags {
		if rest, ok := strings.CutPrefix(tag, prefix); ok {
			if n, err := strconv.ParseInt(rest, 10, 64); err == nil {
				all = append(all, numbered{tag, n})
			}
		}
	}
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(b.n, a.n) })
	var newest []string
	for _, one := range all[:min(keep, len(all))] {
		newest = append(newest, one.tag)
	}
	return newest
}

func (p *pruning) keepGenerations(ctx context.Context, name string) error {
	repo, err := p.registry.Repository(name)
	if err != nil {
		return err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	prefix := "gen-"
	if name == v1alpha1.RepositoryFleet {
		prefix = "pub-"
	}
	for _, tag := range append(generations(tags, prefix, p.keep), v1alpha1.TagCurrent) {
		desc, err := repo.Resolve(ctx, tag)
		if errors.Is(err, oci.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		key := entryKey(name, desc.Digest)
		if p.kept[key] {
			continue
		}
		p.kept[key] = true
		if name != v1alpha1.RepositoryFleet {
			if err := p.keepTarget(ctx, repo, name, desc); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pruning) keepTarget(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) error {
	verified, err := signing.TrustAllUnsafe().Verify(ctx, repo, name, desc)
	if err != nil {
		return err
	}
	target, err := oci.FetchTarget(ctx, repo, verified)
	if err != nil {
		return err
	}
	bundles := target.Bundles
	for _, rollout := range target.Rollouts {
		bundles = append(bundles, rollout.Bundles...)
	}
	for _, bundle := range bundles {
		key := entryKey(bundle.Repository, digest.Digest(bundle.Digest))
		if p.kept[key] {
			continue
		}
		p.kept[key] = true
		if err := p.keepImages(ctx, bundle); err != nil {
			return err
		}
	}
	return nil
}

func (p *pruning) keepImages(ctx context.Context, named v1alpha1.TargetBundle) error {
	repo, err := p.registry.Repository(named.Repository)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, named.Digest)
	if errors.Is(err, oci.ErrNotFound) {
		return nil // it was not mirrored
	}
	if err != nil {
		return err
	}
	verified, err := signing.TrustAllUnsafe().Verify(ctx, repo, named.Repository, desc)
	if err != nil {
		return err
	}
	bundle, err := oci.FetchBundle(ctx, repo, verified)
	if err != nil {
		return err
	}
	for _, image := range bundle.Config.Images {
		name, err := oci.ParseImage(image.Reference)
		if err != nil {
			continue // nothing is mirrored for it
		}
		if d := cmp.Or(digest.Digest(image.Digest), name.Digest); d != "" {
			p.kept[entryKey(name.Mirrored(), d)] = true
		} else {
			p.kept[name.Mirrored()+":"+name.Tag] = true
		}
	}
	return nil
}

// repository deletes what nothing keeps in one repository.
func (p *pruning) repository(ctx context.Context, name string, dryRun bool) ([]Pruned, error) {
	repo, err := p.registry.Repository(name)
	if err != nil {
		return nil, err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	byDigest := map[digest.Digest]*Pruned{}
	descs := map[digest.Digest]ocispec.Descriptor{}
	keep := map[digest.Digest]bool{}
	for _, tag := range tags {
		desc, err := repo.Resolve(ctx, tag)
		if errors.Is(err, oci.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if byDigest[desc.Digest] == nil {
			byDigest[desc.Digest] = &Pruned{Repository: name, Digest: desc.Digest}
			descs[desc.Digest] = desc
		}
		byDigest[desc.Digest].Tags = append(byDigest[desc.Digest].Tags, tag)
		if p.kept[entryKey(name, desc.Digest)] || p.kept[name+":"+tag] {
			keep[desc.Digest] = true
		}
	}
	if err := keepBelow(ctx, repo, descs, keep); err != nil {
		return nil, err
	}
	var pruned []Pruned
	for d, one := range byDigest {
		if keep[d] || slices.ContainsFunc(one.Tags, func(tag string) bool { return attachedToKept(tag, keep) }) {
			continue
		}
		if !dryRun {
			if err := repo.Delete(ctx, descs[d]); err != nil && !errors.Is(err, oci.ErrNotFound) {
				if errors.Is(err, oci.ErrUnsupported) {
					return pruned, err
				}
				one.Error = err.Error()
			}
		}
		pruned = append(pruned, *one)
	}
	slices.SortFunc(pruned, func(a, b Pruned) int { return cmp.Compare(a.Digest, b.Digest) })
	return pruned, nil
}

// keepBelow keeps the platforms of kept indexes, so that what is attached to them stays too.
func keepBelow(ctx context.Context, repo oci.Repository, descs map[digest.Digest]ocispec.Descriptor, keep map[digest.Digest]bool) error {
	for d, desc := range descs {
		if !keep[d] || !oci.IsIndex(desc.MediaType) {
			continue
		}
		m, err := readManifest(ctx, repo, desc)
		if err != nil {
			return err
		}
		for _, child := range m.Manifests {
			keep[child.Digest] = true
		}
	}
	return nil
}

// attachedToKept says whether a tag such as sha256-<hex>.sig belongs to something that is kept.
func attachedToKept(tag string, keep map[digest.Digest]bool) bool {
	hex, ok := strings.CutPrefix(tag, "sha256-")
	if !ok {
		return false
	}
	hex, _, _ = strings.Cut(hex, ".")
	return keep[digest.NewDigestFromEncoded(digest.SHA256, hex)]
}
