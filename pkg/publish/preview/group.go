package preview

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Action is what becomes of a bundle or of an object: a closed set.
type Action string

const (
	Added   Action = "added"
	Removed Action = "removed"
	Changed Action = "changed"
)

// Pair is a bundle as a cluster gets it before and after; nil where it doesn't get it.
type Pair struct{ Before, After *v1alpha1.TargetBundle }

// Name is the bundle's.
func (p Pair) Name() string {
	if p.After == nil {
		return p.Before.Name
	}
	return p.After.Name
}

// Action says what becomes of the bundle.
func (p Pair) Action() Action {
	switch {
	case p.Before == nil:
		return Added
	case p.After == nil:
		return Removed
	}
	return Changed
}

// Pairs returns the bundles that differ between two targets, by name.
func Pairs(before, after v1alpha1.Target) []Pair {
	pairs := map[string]Pair{}
	for i := range before.Bundles {
		pairs[before.Bundles[i].Name] = Pair{Before: &before.Bundles[i]}
	}
	for i := range after.Bundles {
		bundle := &after.Bundles[i]
		pair := pairs[bundle.Name]
		pair.After = bundle
		pairs[bundle.Name] = pair
	}
	var differ []Pair
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		pair := pairs[name]
		if pair.Before == nil || pair.After == nil || !bytes.Equal(encode(pair.Before), encode(pair.After)) {
			differ = append(differ, pair)
		}
	}
	return differ
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // values are JSON types only
	}
	return data
}

// Group is one difference and the clusters for which it is the same.
type Group struct {
	// Pair is the bundle of the first cluster.
	Pair
	// Clusters are sorted.
	Clusters []string
	// Varied is true when the same fields change to other values on each cluster, or when the bundle comes or goes with
	// values of each cluster's own.
	Varied bool
}

// maxVariations is how many different values of the same fields are told apart. More of them come from templates, and
// say the same thing of each cluster.
const maxVariations = 8

// Groups collects differences. Its zero value is ready; the order of adding doesn't matter.
type Groups struct {
	families map[string]*family
}

// family is what changes the same fields of the same artifacts.
type family struct {
	groups map[string]*Group // by the values
	folded *Group            // of all, once there are too many
}

// Add counts a cluster's difference.
func (g *Groups) Add(cluster string, pair Pair) {
	kind, values := keys(pair)
	if g.families == nil {
		g.families = map[string]*family{}
	}
	in := g.families[kind]
	if in == nil {
		in = &family{groups: map[string]*Group{}}
		g.families[kind] = in
	}
	if in.folded != nil {
		in.folded.add(cluster, pair)
		return
	}
	group := in.groups[values]
	if group == nil {
		group = &Group{}
		in.groups[values] = group
	}
	group.add(cluster, pair)
	if len(in.groups) > maxVariations || pair.Action() != Changed && len(in.groups) > 1 {
		in.fold()
	}
}

func (g *Group) add(cluster string, pair Pair) {
	if len(g.Clusters) == 0 || cluster < g.Clusters[0] {
		// The first one by name stands for all, whatever the order.
		g.Pair = pair
		g.Clusters = append([]string{cluster}, g.Clusters...)
		return
	}
	g.Clusters = append(g.Clusters, cluster)
}

func (f *family) fold() {
	f.folded = &Group{Varied: true}
	for _, group := range f.groups {
		first := group.Clusters[0]
		f.folded.add(first, group.Pair)
		f.folded.Clusters = append(f.folded.Clusters, group.Clusters[1:]...)
	}
	f.groups = nil
}

// Sorted returns the differences by bundle, those of most clusters first.
func (g *Groups) Sorted() []Group {
	var all []Group
	for _, family := range g.families {
		if family.folded != nil {
			all = append(all, *family.folded)
		}
		for _, group := range family.groups {
			all = append(all, *group)
		}
	}
	for i := range all {
		slices.Sort(all[i].Clusters)
	}
	slices.SortFunc(all, func(a, b Group) int {
		if order := strings.Compare(a.Name(), b.Name()); order != 0 {
			return order
		}
		if order := len(b.Clusters) - len(a.Clusters); order != 0 {
			return order
		}
		return strings.Compare(a.Clusters[0], b.Clusters[0])
	})
	return all
}

// keys tell differences apart: by bundle, artifacts and the fields that change, and then by the fields' values.
func keys(pair Pair) (kind, values string) {
	id := []string{pair.Name(), string(pair.Action())}
	var before, after any
	if pair.Before != nil {
		id = append(id, pair.Before.Digest)
		before = options(pair.Before)
	}
	if pair.After != nil {
		id = append(id, pair.After.Digest)
		after = options(pair.After)
	}
	if pair.Action() != Changed {
		return strings.Join(id, "\x00"), string(encode([]any{before, after}))
	}
	changes := map[string][2]any{}
	leaves(before, after, "", changes)
	return strings.Join(append(id, slices.Sorted(maps.Keys(changes))...), "\x00"), string(encode(changes))
}

// leaves lists the fields that differ, by path. Lists are compared whole.
func leaves(before, after any, path string, into map[string][2]any) {
	b, beforeMap := before.(map[string]any)
	a, afterMap := after.(map[string]any)
	if !beforeMap || !afterMap {
		if !reflect.DeepEqual(before, after) {
			into[path] = [2]any{before, after}
		}
		return
	}
	for _, key := range union(b, a) {
		leaves(b[key], a[key], path+"/"+key, into)
	}
}

// union returns the keys of both, sorted.
func union(a, b map[string]any) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}
