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
	// Jobs bounds builds and fetches at the same time; four per processor when zero.
	Jobs int
	// Progress receives steps, one at a time; may be nil.
	Progress func(Event)
}

// DiffResult says what a publish would change on clusters. Secrets are masked in it.
type DiffResult struct {
	Fleet    string `json:"fleet"`
	Registry string `json:"registry"`
	// Publication is what the fleet was compared with; 0 when nothing is published yet.
	Publication int64 `json:"publication"`
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

// Diff compares what the fleet says with what is published in its registry, and writes nothing.
func Diff(ctx context.Context, opts DiffOptions) (DiffResult, error) {
	loaded, err := Load(ctx, opts.LoadOptions)
	if err != nil {
		return DiffResult{}, err
	}
	registry, err := openRegistry(loaded, opts.Registry, opts.OCI)
	if err != nil {
		return DiffResult{}, err
	}
	return diff(ctx, loaded, registry, opts)
}

func diff(ctx context.Context, loaded *Loaded, registry oci.Registry, opts DiffOptions) (DiffResult, error) {
	result := DiffResult{
		Fleet: loaded.Fleet.Name, Registry: registry.String(), Clusters: len(loaded.Fleet.Clusters), Differences: []Difference{},
	}
	parent, _, err := ReadIndex(ctx, registry, opts.Verifier)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return result, err
	}
	result.Publication = parent.Publication
	if parent.Publication > 0 && parent.Fleet != loaded.Fleet.Name {
		return result, fmt.Errorf("%s holds the fleet %q, not %q; name its prefix with --registry", registry, parent.Fleet, loaded.Fleet.Name)
	}
	d := &differ{
		publisher: newPublisher(registry, Options{Jobs: opts.Jobs, Progress: opts.Progress}), verifier: opts.Verifier,
		loaded: loaded, parent: parent, result: result, intervals: map[[2]string][]string{},
	}
	if loaded.Fleet.Facts, err = d.readFacts(ctx, loaded, parent); err != nil {
		return result, err
	}
	if d.variants, err = d.build(ctx, loaded, parent); err != nil {
		return result, err
	}
	if err := d.compareTargets(ctx); err != nil {
		return result, err
	}
	d.leave()
	return d.result, d.compareBundles(ctx)
}

// differ does what a publish does up to the decision, and looks at what is published instead of replacing it.
type differ struct {
	*publisher
	verifier *signing.Verifier
	loaded   *Loaded
	parent   v1alpha1.FleetIndex
	variants variants

	mu        sync.Mutex
	groups    preview.Groups
	intervals map[[2]string][]string // clusters by interval before and after
	result    DiffResult
}

// compareTargets fetches the targets of clusters for which something changes.
func (d *differ) compareTargets(ctx context.Context) error {
	published := map[string]v1alpha1.IndexCluster{}
	for _, cluster := range d.parent.Clusters {
		published[cluster.Name] = cluster
	}
	progress := d.stage("compare", len(d.loaded.Fleet.Clusters))
	return d.each(ctx, len(d.loaded.Fleet.Clusters), func(ctx context.Context, i int) error {
		plan, err := d.loaded.Fleet.PlanCluster(i)
		if err != nil {
			return err
		}
		next := d.loaded.Fleet.Assemble(plan, d.variants.artifact)
		index, known := published[next.Cluster]
		action := target.Unchanged
		if !known || index.Content != target.Content(next) {
			action = target.Changed
			before := v1alpha1.Target{}
			if known {
				if before, err = d.fetchTarget(ctx, index, d.verifier); err != nil {
					return fmt.Errorf("cluster %s: %w", next.Cluster, err)
				}
			}
			d.add(before, next, known)
		}
		progress(next.Cluster, action)
		return nil
	})
}

// add counts what changes for one cluster.
func (d *differ) add(before, after v1alpha1.Target, known bool) {
	pairs := preview.Pairs(before, after)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Changed++
	if !known {
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

// leave lists what speaks of clusters as a whole.
func (d *differ) leave() {
	now := map[string]bool{}
	for _, cluster := range d.loaded.Fleet.Clusters {
		now[cluster.Metadata.Name] = true
	}
	for _, cluster := range d.parent.Clusters {
		if !now[cluster.Name] {
			d.result.Left = append(d.result.Left, cluster.Name)
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
	built := map[string]*variant{}
	for _, variant := range d.variants {
		built[variant.index.Name+"@"+variant.index.Digest] = variant
	}
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
