package mirror

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// Inventory is what the receiver has of a closure.
type Inventory struct {
	// Manifests and Blobs are there, by repository@digest.
	Manifests map[string]bool
	Blobs     map[string]bool
	// Tags are the digests of moving tags, by repository:tag; of other tags only that they are there.
	Tags map[string]digest.Digest
	// Holders are other repositories of the receiver that have a blob.
	Holders map[digest.Digest][]string
}

// tagThere is the digest of a tag that never moves: it is there, and was right when it was written.
const tagThere digest.Digest = "there"

// Plan is what is to be done at a receiver, decided from a closure and an inventory.
type Plan struct {
	Closure *Closure `json:"-"`
	// Steps are one for each entry that isn't there, in the order of the closure's.
	Steps []Step `json:"steps"`
	// Blobs are each blob that any step needs, once.
	Blobs []BlobStep `json:"blobs"`
	// Moves are tags that readers poll and that point elsewhere, in the order in which they move.
	Moves []Move `json:"moves"`
	// Present is how many entries need nothing.
	Present int `json:"present"`
}

// Step is an entry whose manifest or tags aren't there.
type Step struct {
	Entry *Entry `json:"entry"`
	// Manifest says that the manifest is missing; otherwise only tags are.
	Manifest bool     `json:"manifest"`
	Tags     []string `json:"tags,omitempty"`
}

// BlobStep brings a blob to every repository that needs it: sent once at most, and mounted into the others.
type BlobStep struct {
	Blob
	// From are repositories of the receiver that have it already.
	From []string `json:"from,omitempty"`
	// To are repositories that need it; the first is sent it when From is empty.
	To []string `json:"to"`
	// source is an entry that has it, to know where it is read.
	source *Entry
}

// Move points a tag that readers poll at its new manifest.
type Move struct {
	Entry *Entry `json:"entry"`
	Tag   string `json:"tag"`
}

// Send is how many bytes and blobs have to be sent.
func (p *Plan) Send() (bytes int64, blobs int) {
	for _, step := range p.Blobs {
		if len(step.From) == 0 {
			bytes += step.Size
			blobs++
		}
	}
	for _, step := range p.Steps {
		if step.Manifest {
			bytes += step.Entry.Size
		}
	}
	return bytes, blobs
}

// Done says that there is nothing to do.
func (p *Plan) Done() bool { return len(p.Steps)+len(p.Moves) == 0 }

// order in which tags move: what is trusted, then what is fetched, and what agents poll last.
var order = []Kind{KindTrust, KindStatus, KindImage, KindBundle, KindFleet, KindRollout, KindTarget}

// Compare decides what is to be done. It is pure.
func Compare(closure *Closure, there Inventory) *Plan {
	plan := &Plan{Closure: closure}
	holders := map[digest.Digest][]string{}
	for d, repositories := range there.Holders {
		holders[d] = slices.Clone(repositories)
	}
	for _, entry := range closure.Entries {
		if there.Manifests[entry.Key()] {
			for _, blob := range entry.Blobs {
				holders[blob.Digest] = append(holders[blob.Digest], entry.Repository)
			}
		}
	}
	needed := map[digest.Digest]*BlobStep{}
	var sequence []digest.Digest
	for _, entry := range closure.Entries {
		step := Step{Entry: entry, Manifest: !there.Manifests[entry.Key()]}
		for _, tag := range entry.Tags {
			if step.Manifest || there.Tags[entry.Repository+":"+tag] == "" {
				step.Tags = append(step.Tags, tag)
			}
		}
		for _, tag := range entry.Moving {
			if there.Tags[entry.Repository+":"+tag] != entry.Digest {
				plan.Moves = append(plan.Moves, Move{Entry: entry, Tag: tag})
			}
		}
		if !step.Manifest && len(step.Tags) == 0 {
			plan.Present++
			continue
		}
		plan.Steps = append(plan.Steps, step)
		if !step.Manifest {
			continue
		}
		for _, blob := range entry.Blobs {
			key := entryKey(entry.Repository, blob.Digest)
			if there.Blobs[key] {
				holders[blob.Digest] = append(holders[blob.Digest], entry.Repository)
				continue
			}
			if needed[blob.Digest] == nil {
				needed[blob.Digest] = &BlobStep{Blob: blob, source: entry}
				sequence = append(sequence, blob.Digest)
			}
			if step := needed[blob.Digest]; !slices.Contains(step.To, entry.Repository) {
				step.To = append(step.To, entry.Repository)
			}
		}
	}
	for _, d := range sequence {
		step := needed[d]
		step.From = slices.Compact(slices.Sorted(slices.Values(holders[d])))
		step.To = slices.DeleteFunc(step.To, func(to string) bool { return slices.Contains(step.From, to) })
		if len(step.To) > 0 {
			plan.Blobs = append(plan.Blobs, *step)
		}
	}
	slices.SortStableFunc(plan.Moves, func(a, b Move) int {
		return slices.Index(order, a.Entry.Kind) - slices.Index(order, b.Entry.Kind)
	})
	return plan
}

// levels sorts steps so that a manifest comes after those that it names or speaks of. Steps of one level may go at the
// same time. It is pure.
func (p *Plan) levels() [][]Step {
	steps := map[string]Step{}
	for _, step := range p.Steps {
		steps[step.Entry.Key()] = step
	}
	depth := map[string]int{}
	var of func(key string, seen int) int
	of = func(key string, seen int) int {
		step, ok := steps[key]
		if !ok || seen > maxNesting {
			return -1
		}
		if d, ok := depth[key]; ok {
			return d
		}
		d := 0
		for _, child := range step.Entry.Children {
			d = max(d, of(entryKey(step.Entry.Repository, child), seen+1)+1)
		}
		if subject := step.Entry.Subject; subject != "" {
			d = max(d, of(entryKey(step.Entry.Repository, subject), seen+1)+1)
		}
		depth[key] = d
		return d
	}
	var levels [][]Step
	for _, step := range p.Steps {
		d := of(step.Entry.Key(), 0)
		for len(levels) <= d {
			levels = append(levels, nil)
		}
		levels[d] = append(levels[d], step)
	}
	return levels
}

// maxNesting stops manifests of a hostile sender that name each other in a circle.
const maxNesting = 32

// OnlyBlobs is the part of a plan that readers don't see: those blobs that keep says yes to.
func (p *Plan) OnlyBlobs(keep func(d digest.Digest) bool) *Plan {
	part := &Plan{Closure: &Closure{}}
	for _, step := range p.Blobs {
		if len(step.From) > 0 || keep(step.Digest) {
			part.Blobs = append(part.Blobs, step)
		}
	}
	return part
}
