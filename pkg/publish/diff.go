package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/preview"
	"pinnace.dev/pinnace/pkg/target"
)

// DiffOptions of [Diff].
type DiffOptions struct {
	LoadOptions
	// Registry replaces the fleet's when set.
	Registry string
	// Verifier says whose signatures on what is published count.
	Verifier *signing.Verifier
	// From is a branch, a tag or a commit of the fleet repository to compare with, instead of what is published. Neither
	// a registry nor a verifier is needed then, and what agents reported is not known.
	From string
	// Jobs bounds builds and fetches at the same time; four per processor when zero.
	Jobs int
	// Progress receives steps, one at a time; may be nil.
	Progress func(Event)
}

// DiffResult says what a publish would change on clusters. Secrets are masked in it.
type DiffResult struct {
	Fleet    string `json:"fleet"`
	Registry string `json:"registry,omitempty"`
	// From is the revision that the fleet was compared with; empty when it was the Publication, which is 0 when nothing is
	// published yet.
	From        string `json:"from,omitempty"`
	Publication int64  `json:"publication,omitempty"`
	// Clusters counts those of the fleet, and Changed those among them for which something changes.
	Clusters int `json:"clusters"`
	Changed  int `json:"changed"`
	// Joined are clusters that nothing was published for before. Left are those that the fleet no longer has: they keep
	// what they run.
	Joined []string `json:"joined,omitempty"`
	Left   []string `json:"left,omitempty"`
	// Refused are clusters that would lose more than half of their bundles: a publish refuses that, unless it is told to.
	Refused []string `json:"refused,omitempty"`
	// Intervals are changes of how often agents poll.
	Intervals   []IntervalChange `json:"intervals,omitempty"`
	Differences []Difference     `json:"differences"`
}

// Differs reports whether anything would change.
func (r DiffResult) Differs() bool { return r.Changed > 0 || len(r.Left) > 0 }

// IntervalChange is how often agents poll, before and after.
type IntervalChange struct {
	Before   string   `json:"before"`
	After    string   `json:"after"`
	Clusters []string `json:"clusters"`
}

// Difference is one change of one bundle, with all clusters for which it is the same.
type Difference struct {
	Bundle   string         `json:"bundle"`
	Action   preview.Action `json:"action"`
	Clusters []string       `json:"clusters"`
	// Varied is true when values differ by cluster. What follows is then as the first cluster gets it.
	Varied bool `json:"varied,omitempty"`
	// Before and After are the artifacts' digests.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Options is a unified difference of what the target says beside the artifact; empty for a bundle that goes.
	Options string `json:"options,omitempty"`
	// Objects are those that come, go or change.
	Objects []preview.Change `json:"objects,omitempty"`
	// Note says why objects were not compared.
	Note string `json:"note,omitempty"`
}

// Diff compares what the fleet says with what is published in its registry, or with another revision of the fleet, and
// writes nothing. Whether the fleet repository is read from a folder or by its URL is no difference.
func Diff(ctx context.Context, opts DiffOptions) (DiffResult, error) {
	loaded, err := Load(ctx, opts.LoadOptions)
	if err != nil {
		return DiffResult{}, err
	}
	if opts.From != "" {
		return diffRevision(ctx, loaded, opts)
	}
	registry, err := openRegistry(loaded.Fleet, opts.Registry, opts.OCI)
	if err != nil {
		return DiffResult{}, err
	}
	return diffPublished(ctx, loaded, registry, opts)
}

func diffPublished(ctx context.Context, loaded *Loaded, registry oci.Registry, opts DiffOptions) (DiffResult, error) {
	index, _, err := ReadIndex(ctx, registry, opts.Verifier)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return DiffResult{}, err
	}
	if index.Publication > 0 && index.Fleet != loaded.Fleet.Name {
		return DiffResult{}, fmt.Errorf("%s holds the fleet %q, not %q; name its prefix with --registry", registry, index.Fleet, loaded.Fleet.Name)
	}
	loaded.readFrom(index.Sources)
	p := newPublisher(registry, Options{LoadOptions: LoadOptions{CacheDir: opts.CacheDir}, Jobs: opts.Jobs, Progress: opts.Progress})
	defer p.shelf.close()
	if loaded.Fleet.Facts, err = p.readFacts(ctx, loaded, index); err != nil {
		return DiffResult{}, err
	}
	built, err := p.planAndBuild(ctx, loaded, index)
	if err != nil {
		return DiffResult{}, err
	}
	d := newDiffer(p, loaded, built, newPublished(p, opts.Verifier, index))
	d.result.Registry, d.result.Publication = registry.String(), index.Publication
	return d.run(ctx)
}

func diffRevision(ctx context.Context, loaded *Loaded, opts DiffOptions) (DiffResult, error) {
	from, err := loadFrom(ctx, opts)
	if err != nil {
		return DiffResult{}, err
	}
	loaded.readFrom(from.Sources)
	p := newPublisher(nil, Options{LoadOptions: LoadOptions{CacheDir: opts.CacheDir}, Jobs: opts.Jobs, Progress: opts.Progress})
	defer p.shelf.close()
	before, err := newRevision(ctx, p, from)
	if err != nil {
		return DiffResult{}, fmt.Errorf("%s: %w", opts.From, err)
	}
	built, err := p.planAndBuild(ctx, loaded, v1alpha1.FleetIndex{})
	if err != nil {
		return DiffResult{}, err
	}
	d := newDiffer(p, loaded, built, before)
	d.result.From = opts.From
	return d.run(ctx)
}

// differ does what a publish does up to the decision, and looks at what was before instead of replacing it.
type differ struct {
	*publisher
	loaded *Loaded
	built  variants
	before earlier

	mu        sync.Mutex
	groups    preview.Groups
	intervals map[[2]string][]string // clusters by interval before and after
	result    DiffResult
}

func newDiffer(p *publisher, loaded *Loaded, built variants, before earlier) *differ {
	return &differ{
		publisher: p, loaded: loaded, built: built, before: before, intervals: map[[2]string][]string{},
		result: DiffResult{Fleet: loaded.Fleet.Name, Clusters: len(loaded.Fleet.Clusters), Differences: []Difference{}},
	}
}

func (d *differ) run(ctx context.Context) (DiffResult, error) {
	if err := d.compareTargets(ctx); err != nil {
		return d.result, err
	}
	d.summarize()
	return d.result, d.compareBundles(ctx)
}

func (d *differ) compareTargets(ctx context.Context) error {
	progress := d.stage("compare", len(d.loaded.Fleet.Clusters))
	return d.each(ctx, len(d.loaded.Fleet.Clusters), func(ctx context.Context, i int) error {
		plan, err := d.loaded.Fleet.PlanCluster(i)
		if err != nil {
			return err
		}
		next := d.loaded.Fleet.Assemble(plan, d.built.artifact)
		before, same, err := d.before.target(ctx, next.Cluster, target.Content(next))
		if err != nil {
			return fmt.Errorf("cluster %s: %w", next.Cluster, err)
		}
		if before != nil && target.HasSecrets(&next) {
			target.KeepSealed(&next, before)
			same = target.Content(next) == target.Content(*before)
		}
		action := target.Unchanged
		if !same {
			action = target.Changed
			d.add(before, next)
		}
		progress(next.Cluster, action, 0)
		return nil
	})
}

// add counts what changes for one cluster; before is nil for a new one.
func (d *differ) add(before *v1alpha1.Target, after v1alpha1.Target) {
	joined := before == nil
	if joined {
		before = &v1alpha1.Target{}
	}
	pairs := preview.Pairs(*before, after)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Changed++
	if joined {
		d.result.Joined = append(d.result.Joined, after.Cluster)
	} else if before.Interval != after.Interval {
		change := [2]string{before.Interval.Duration.String(), after.Interval.Duration.String()}
		d.intervals[change] = append(d.intervals[change], after.Cluster)
	}
	removed := 0
	for _, pair := range pairs {
		d.groups.Add(after.Cluster, pair)
		if pair.Action() == preview.Removed {
			removed++
		}
	}
	if target.Excessive(removed, len(before.Bundles)) {
		d.result.Refused = append(d.result.Refused, after.Cluster)
	}
}

// summarize lists what speaks of clusters as a whole.
func (d *differ) summarize() {
	now := map[string]bool{}
	for _, cluster := range d.loaded.Fleet.Clusters {
		now[cluster.Metadata.Name] = true
	}
	for _, cluster := range d.before.clusters() {
		if !now[cluster] {
			d.result.Left = append(d.result.Left, cluster)
		}
	}
	slices.Sort(d.result.Joined)
	slices.Sort(d.result.Left)
	slices.Sort(d.result.Refused)
	for change, clusters := range d.intervals {
		slices.Sort(clusters)
		d.result.Intervals = append(d.result.Intervals, IntervalChange{Before: change[0], After: change[1], Clusters: clusters})
	}
	slices.SortFunc(d.result.Intervals, func(a, b IntervalChange) int { return strings.Compare(a.Clusters[0], b.Clusters[0]) })
}

// compareBundles looks into the artifacts: once for each difference, however many clusters have it.
func (d *differ) compareBundles(ctx context.Context) error {
	groups := d.groups.Sorted()
	built := d.built.byDigest()
	differences := make([]Difference, len(groups))
	err := d.each(ctx, len(groups), func(ctx context.Context, i int) error {
		group := groups[i]
		out := Difference{Bundle: group.Name(), Action: group.Action(), Clusters: group.Clusters, Varied: group.Varied}
		var mask preview.Mask
		// Also of what goes, for the mask to know its secrets.
		if options := preview.Options(group.Pair, &mask); out.Action != preview.Removed {
			out.Options = options
		}
		var sides [2]side
		for i, bundle := range []*v1alpha1.TargetBundle{group.Before, group.After} {
			if bundle == nil {
				continue
			}
			var err error
			if sides[i], err = d.side(ctx, bundle, built); err != nil {
				return fmt.Errorf("bundle %q: %w", bundle.Name, err)
			}
		}
		out.Before, out.After = sides[0].digest, sides[1].digest
		if problem := errors.Join(sides[0].problem, sides[1].problem); problem != nil {
			out.Note = fmt.Sprintf("objects are not compared: %v", problem)
		} else {
			out.Objects = preview.Compare(sides[0].objects, sides[1].objects, &mask)
		}
		differences[i] = out
		return nil
	})
	d.result.Differences = append(d.result.Differences, differences...)
	return err
}
