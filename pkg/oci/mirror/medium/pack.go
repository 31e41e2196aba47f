package medium

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// item is a blob or manifest on its way into a volume, with the entry that it is read for.
type item struct {
	mirror.Blob
	entry    *mirror.Entry
	manifest bool
}

// volumePlan is a volume before it is written: everything but its digest.
type volumePlan struct {
	Volume
	items []item
	index []byte // index.json, which stands last
}

const (
	layoutMarker = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`
	// fixedBytes is what a volume takes at most beside blobs and tags: oci-layout, index.json without its entries, padded,
	// and the end.
	fixedBytes = 5*archive.TarBlock + archive.TarEnd
	// maxHolders is how many repositories of the receiver are named for what is left out.
	maxHolders = 3
	// indexEntry is what a tag takes in index.json at most, without the repository's name and the tag's own.
	indexEntry = 320
)

// pack distributes what a closure needs and the receiver lacks over volumes of at most so many bytes; one volume when
// limit is zero. An entry stays in one volume where it fits. The same input gives the same volumes. It is pure.
func pack(closure *mirror.Closure, have *mirror.Holdings, limit int64) ([]volumePlan, []Held, error) {
	p := packer{limit: limit}
	placed := map[digest.Digest]bool{}
	left := map[digest.Digest]Held{}
	for _, entry := range closure.Entries {
		if entry.Held {
			continue
		}
		var group []item
		for i, blob := range append(entry.Blobs[:len(entry.Blobs):len(entry.Blobs)], mirror.Blob{Digest: entry.Digest, Size: entry.Size}) {
			manifest := i == len(entry.Blobs)
			in := have.In(blob.Digest)
			// A blob can be mounted from anywhere; a manifest must be in its repository.
			there := len(in) > 0 && (!manifest || slices.Contains(in, entry.Repository))
			switch {
			case placed[blob.Digest]:
			case there:
				left[blob.Digest] = Held{Blob: blob, In: in[:min(len(in), maxHolders)]}
			default:
				placed[blob.Digest] = true
				group = append(group, item{Blob: blob, entry: entry, manifest: manifest})
			}
		}
		if err := p.add(group); err != nil {
			return nil, nil, err
		}
	}
	var held []Held
	for _, d := range slices.Sorted(maps.Keys(left)) {
		if !placed[d] {
			held = append(held, left[d])
		}
	}
	return p.finish(), held, nil
}

// trim takes out of a closure what the receiver has: an entry that is there and needs no tag is kept, one that is there
// and whose tag may move loses everything but the tag. It is pure.
func trim(closure *mirror.Closure, have *mirror.Holdings) (*mirror.Closure, map[string]string) {
	if have == nil {
		return closure, nil
	}
	kept := map[string][]digest.Digest{}
	trimmed := *closure
	trimmed.Entries = nil
	there := map[string]bool{}
	for _, entry := range closure.Entries {
		there[entry.Key()] = slices.Contains(have.In(entry.Digest), entry.Repository)
	}
	for _, entry := range closure.Entries {
		short := *entry
		switch {
		case !there[entry.Key()]:
			short.Needs = slices.DeleteFunc(slices.Clone(entry.Needs), func(key string) bool { return there[key] })
			short.Children = slices.DeleteFunc(slices.Clone(entry.Children), func(d digest.Digest) bool { return there[entry.Repository+"@"+d.String()] })
		case len(entry.Moving) == 0:
			kept[entry.Repository] = append(kept[entry.Repository], entry.Digest)
			continue
		default:
			short = mirror.Entry{
				Kind: entry.Kind, Repository: entry.Repository, MediaType: entry.MediaType, Digest: entry.Digest, Size: entry.Size,
				Moving: entry.Moving, Held: true,
			}
		}
		trimmed.Entries = append(trimmed.Entries, &short)
	}
	return &trimmed, abbreviate(kept)
}

type packer struct {
	limit   int64
	volumes []volumePlan
	used    int64
}

func (i *item) cost() int64 {
	cost := archive.TarBlock + archive.TarPadded(i.Size)
	if i.manifest {
		for _, tag := range append(i.entry.Tags[:len(i.entry.Tags):len(i.entry.Tags)], i.entry.Moving...) {
			cost += indexEntry + int64(len(i.entry.Repository)+len(tag))
		}
	}
	return cost
}

// ErrVolumeSize says that volumes of the size that was asked for are too small for a blob: blobs are not split.
var ErrVolumeSize = errors.New("it does not fit in a volume")

func (p *packer) add(group []item) error {
	var all int64
	for i := range group {
		all += group[i].cost()
	}
	if len(group) > 0 && len(p.volumes) == 0 || p.limit > 0 && p.used+all > p.limit && fixedBytes+all <= p.limit {
		p.next()
	}
	for _, one := range group {
		if one.Size > archive.MaxTarFile {
			return fmt.Errorf("%s of %s: %w: %d bytes do not fit in a volume", one.Digest, one.entry.Repository, oci.ErrTooLarge, one.Size)
		}
		cost := one.cost()
		if p.limit > 0 && p.used+cost > p.limit {
			if fixedBytes+cost > p.limit {
				return fmt.Errorf("%s of %s: %w: it takes %d bytes; volumes must have at least %d", one.Digest, one.entry.Repository,
					ErrVolumeSize, one.Size, fixedBytes+cost)
			}
			p.next()
		}
		p.used += cost
		p.volumes[len(p.volumes)-1].items = append(p.volumes[len(p.volumes)-1].items, one)
	}
	return nil
}

func (p *packer) next() {
	p.used = fixedBytes
	p.volumes = append(p.volumes, volumePlan{Volume: Volume{Name: fmt.Sprintf("volume-%04d.tar", len(p.volumes)+1)}})
}

// finish places everything.
func (p *packer) finish() []volumePlan {
	for i := range p.volumes {
		p.volumes[i].place()
	}
	return p.volumes
}

func (v *volumePlan) place() {
	at := archive.TarBlock + archive.TarPadded(int64(len(layoutMarker)))
	v.Blobs = nil
	for _, one := range v.items {
		v.Blobs = append(v.Blobs, Placed{Digest: one.Digest, Size: one.Size, Offset: at + archive.TarBlock})
		at += archive.TarBlock + archive.TarPadded(one.Size)
	}
	v.index = v.layoutIndex()
	v.Size = at + archive.TarBlock + archive.TarPadded(int64(len(v.index))) + archive.TarEnd
}

// layoutIndex is the volume's index.json: what other tools find in it.
func (v *volumePlan) layoutIndex() []byte {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, one := range v.items {
		if !one.manifest {
			continue
		}
		for _, tag := range append(one.entry.Tags[:len(one.entry.Tags):len(one.entry.Tags)], one.entry.Moving...) {
			desc := one.entry.Descriptor()
			desc.Annotations = map[string]string{ocispec.AnnotationRefName: one.entry.Repository + ":" + tag}
			index.Manifests = append(index.Manifests, desc)
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		panic(err) // descriptors of strings and numbers always marshal
	}
	return data
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}
