package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Selection chooses clusters. The zero value chooses all.
type Selection struct {
	Clusters  []string
	Selectors []labels.Selector
	// Platforms are os/architecture[/variant]; all when empty.
	Platforms []string
	// WithoutImages leaves container images out.
	WithoutImages bool
}

// From is where a closure is read.
type From struct {
	// Registry is the fleet's.
	Registry oci.Registry
	// Host opens another registry, for images; it is called once for each host.
	Host     func(host string) (oci.Registry, error)
	Verifier Verifier
	// Jobs bounds requests at the same time; 24 when zero.
	Jobs int
}

const (
	defaultJobs = 24
	// maxEntries stops a closure that grows without end.
	maxEntries = 1_000_000
)

// Find computes the closure of the chosen clusters from what is signed: the fleet index names the targets, they name
// the bundles, and these the images; whatever is attached to any of them comes along. What the policy refuses is
// listed, and left out with what only it needs.
func Find(ctx context.Context, from From, selection Selection) (*Closure, error) {
	if err := Follow(ctx, from.Verifier, from.Registry); err != nil {
		return nil, err
	}
	w := &walker{
		From: from, selection: selection, sources: map[string]*source{}, entries: map[string]*Entry{},
		registries: map[string]oci.Registry{}, images: map[string]*imageWalk{},
		gates: map[string]bool{},
	}
	index, err := w.fleet(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(index, selection)
	if err != nil {
		return nil, err
	}
	w.closure.Fleet, w.closure.Publication = index.Fleet, index.Publication
	if err := w.each(ctx, len(chosen), func(ctx context.Context, i int) error { return w.target(ctx, chosen[i]) }); err != nil {
		return nil, err
	}
	if err := w.bundles(ctx); err != nil {
		return nil, err
	}
	if !selection.WithoutImages {
		if err := w.allImages(ctx); err != nil {
			return nil, err
		}
	}
	if err := w.small(ctx); err != nil {
		return nil, err
	}
	return w.finish(), nil
}

// choose returns the chosen clusters of an index. It is pure.
func choose(index v1alpha1.FleetIndex, selection Selection) ([]v1alpha1.IndexCluster, error) {
	if len(selection.Clusters)+len(selection.Selectors) == 0 {
		return index.Clusters, nil
	}
	var chosen []v1alpha1.IndexCluster
	named := map[string]bool{}
	for _, cluster := range index.Clusters {
		byName := slices.Contains(selection.Clusters, cluster.Name)
		named[cluster.Name] = byName
		if byName || slices.ContainsFunc(selection.Selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(cluster.Labels)) }) {
			chosen = append(chosen, cluster)
		}
	}
	for _, name := range selection.Clusters {
		if !named[name] {
			return nil, fmt.Errorf("cluster %q: %w in the fleet index; it has %d clusters (pinnace status lists them)", name, oci.ErrNotFound, len(index.Clusters))
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no cluster matches: %w; the fleet index has %d clusters", oci.ErrNotFound, len(index.Clusters))
	}
	return chosen, nil
}

type walker struct {
	From
	selection Selection

	mu         sync.Mutex
	closure    Closure
	entries    map[string]*Entry
	sources    map[string]*source // by name at the receiver
	registries map[string]oci.Registry
	images     map[string]*imageWalk
	wanted     []wantedBundle
	gates      map[string]bool // repositories of rollouts that targets wait for
}

func (w *walker) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(w.Jobs, defaultJobs))
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// own returns one of the fleet's repositories.
func (w *walker) own(name string) (*source, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sources[name]; s != nil {
		return s, nil
	}
	repo, err := w.Registry.Repository(name)
	if err != nil {
		return nil, err
	}
	s := &source{repo: oci.AttachedListed(repo), name: name}
	w.sources[name] = s
	return s, nil
}

func (w *walker) fleet(ctx context.Context) (v1alpha1.FleetIndex, error) {
	var index v1alpha1.FleetIndex
	s, err := w.own(v1alpha1.RepositoryFleet)
	if err != nil {
		return index, err
	}
	desc, err := s.repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return index, fmt.Errorf("%s holds no fleet: %w; publish one with: pinnace publish", w.Registry, err)
	}
	if err != nil {
		return index, err
	}
	verified, err := w.Verifier.Verify(ctx, s.repo, s.name, desc)
	if err != nil {
		return index, err
	}
	if index, err = oci.FetchFleetIndex(ctx, s.repo, verified); err != nil {
		return index, err
	}
	return index, w.add(ctx, s, desc, &Entry{
		Kind: KindFleet, Tags: []string{fmt.Sprintf("pub-%d", index.Publication)}, Moving: []string{v1alpha1.TagCurrent},
		Why: []string{"the fleet index"}, Signers: verified.Signers(),
	})
}

// wantedBundle is a bundle of a target.
type wantedBundle struct {
	name, repository string
	digest           digest.Digest
	cluster          string
	target           *Entry
}

func (w *walker) target(ctx context.Context, cluster v1alpha1.IndexCluster) error {
	s, err := w.own(v1alpha1.TargetRepository(cluster.Name))
	if err != nil {
		return err
	}
	desc, err := s.repo.Resolve(ctx, cluster.Digest)
	if err != nil {
		return fmt.Errorf("target of cluster %s: %w", cluster.Name, err)
	}
	verified, err := w.Verifier.Verify(ctx, s.repo, s.name, desc)
	if err != nil {
		return w.refuse(ctx, s.name+"@"+desc.Digest.String(), err)
	}
	target, err := oci.FetchTarget(ctx, s.repo, verified)
	if err != nil {
		return err
	}
	entry := &Entry{
		Kind: KindTarget, Tags: []string{fmt.Sprintf("gen-%d", target.Generation)}, Moving: []string{v1alpha1.TagCurrent},
		Why: []string{"target of cluster " + cluster.Name}, Signers: verified.Signers(),
	}
	if err := w.add(ctx, s, desc, entry); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closure.Clusters = append(w.closure.Clusters, cluster.Name)
	want := func(bundles []v1alpha1.TargetBundle) {
		for _, bundle := range bundles {
			w.wanted = append(w.wanted, wantedBundle{
				name: bundle.Name, repository: bundle.Repository, digest: digest.Digest(bundle.Digest), cluster: cluster.Name, target: entry,
			})
		}
	}
	want(target.Bundles)
	for _, rollout := range target.Rollouts {
		want(rollout.Bundles)
		w.gates[v1alpha1.RolloutRepository(rollout.Name)] = true
	}
	return nil
}

// refuse lists what the policy refuses. Other errors end the walk.
func (w *walker) refuse(ctx context.Context, subject string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !IsRefusal(err) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closure.Refused = append(w.closure.Refused, Problem{Subject: subject, Message: err.Error()})
	return nil
}

// bundles walks every bundle once, whatever the number of clusters.
func (w *walker) bundles(ctx context.Context) error {
	type key struct {
		repository string
		digest     digest.Digest
	}
	byKey := map[key][]wantedBundle{}
	for _, wanted := range w.wanted {
		k := key{wanted.repository, wanted.digest}
		byKey[k] = append(byKey[k], wanted)
	}
	var all [][]wantedBundle
	for _, wanted := range byKey {
		all = append(all, wanted)
	}
	return w.each(ctx, len(all), func(ctx context.Context, i int) error { return w.bundle(ctx, all[i]) })
}

func (w *walker) bundle(ctx context.Context, wanted []wantedBundle) error {
	first := wanted[0]
	s, err := w.own(first.repository)
	if err != nil {
		return err
	}
	subject := s.name + "@" + first.digest.String()
	desc, err := s.repo.Resolve(ctx, first.digest.String())
	if err != nil {
		return fmt.Errorf("bundle %s of cluster %s: %w", first.name, first.cluster, err)
	}
	verified, err := w.Verifier.Verify(ctx, s.repo, s.name, desc)
	if err != nil {
		for _, one := range wanted {
			w.need(one.target, subject) // so that its target's tag doesn't move
		}
		return w.refuse(ctx, subject, err)
	}
	bundle, err := oci.FetchBundle(ctx, s.repo, verified)
	if err != nil {
		return err
	}
	entry := &Entry{Kind: KindBundle, Tags: []string{contentTag(desc.Digest)}, Why: whyBundle(wanted), Signers: verified.Signers()}
	if err := w.add(ctx, s, desc, entry); err != nil {
		return err
	}
	for _, one := range wanted {
		w.need(one.target, entry.Key())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, image := range bundle.Config.Images {
		w.image(image, first.name, wanted)
	}
	return nil
}

// contentTag keeps a manifest from being collected as untagged.
func contentTag(d digest.Digest) string { return v1alpha1.ContentTag(d.String()) }

func (w *walker) need(entry *Entry, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry.Needs = append(entry.Needs, key)
}

// maxWhy bounds how many clusters a reason names.
const maxWhy = 3

func whyBundle(wanted []wantedBundle) []string {
	var clusters []string
	for _, one := range wanted {
		clusters = append(clusters, one.cluster)
	}
	return []string{fmt.Sprintf("bundle %s of %s", wanted[0].name, nameClusters(clusters))}
}

func nameClusters(clusters []string) string {
	slices.Sort(clusters)
	clusters = slices.Compact(clusters)
	if len(clusters) == 1 {
		return "cluster " + clusters[0]
	}
	shown := strings.Join(clusters[:min(len(clusters), maxWhy)], ", ")
	if more := len(clusters) - maxWhy; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return "clusters " + shown
}

// small adds the fleet's small repositories whole: the trust root, and the gates of rollouts.
func (w *walker) small(ctx context.Context) error {
	if err := w.allTags(ctx, v1alpha1.RepositoryTrust, KindTrust, "the trust root"); err != nil {
		return err
	}
	return w.rollouts(ctx)
}

// allTags adds every tagged manifest of a repository of ours. current and gate move last.
func (w *walker) allTags(ctx context.Context, name string, kind Kind, why string) error {
	s, err := w.own(name)
	if err != nil {
		return err
	}
	tags, err := s.repo.Tags(ctx)
	if err != nil {
		return err
	}
	byDigest := map[digest.Digest]*Entry{}
	descs := map[digest.Digest]ocispec.Descriptor{}
	for _, tag := range tags {
		if strings.HasPrefix(tag, "sha256-") {
			continue // comes along with what it belongs to
		}
		desc, err := s.repo.Resolve(ctx, tag)
		if err != nil {
			return err
		}
		entry := byDigest[desc.Digest]
		if entry == nil {
			entry = &Entry{Kind: kind, Why: []string{why}}
			byDigest[desc.Digest], descs[desc.Digest] = entry, desc
		}
		if moves(tag) {
			entry.Moving = append(entry.Moving, tag)
		} else {
			entry.Tags = append(entry.Tags, tag)
		}
	}
	for d, entry := range byDigest {
		if err := w.add(ctx, s, descs[d], entry); err != nil {
			return err
		}
	}
	return nil
}

func moves(tag string) bool { return tag == v1alpha1.TagCurrent || tag == v1alpha1.TagGate }

// finish makes the closure of what was found.
func (w *walker) finish() *Closure {
	c := &w.closure
	for _, entry := range w.entries {
		c.Entries = append(c.Entries, entry)
	}
	slices.Sort(c.Clusters)
	c.Gates = slices.Sorted(maps.Keys(w.gates))
	c.sort()
	return c
}
