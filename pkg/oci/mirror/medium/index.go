package medium

import (
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// IndexFile is the signed index on a medium: a DSSE envelope around an [Index].
const IndexFile = "pinnace-index.json"

// MaxIndex stops indexes that fill the memory: 100,000 entries fit.
const MaxIndex = 256 << 20

// maxEnvelope stops files that fill the memory around an index: base64 and signatures stand beside the payload.
const maxEnvelope = 512 << 20

// What a medium carries.
const (
	ContentFleet  = "fleet"
	ContentStatus = "status" // what agents reported, on its way back
)

// Index says everything about an export. It is signed: nothing else on a medium is trusted.
type Index struct {
	v1alpha1.TypeMeta `json:",inline"`
	// Content is fleet or status.
	Content string `json:"content"`
	// Stream tells exports apart that follow each other: of an older one of a stream the import is refused.
	Stream string `json:"stream"`
	// Sequence increases with every export of a stream.
	Sequence  int64       `json:"sequence"`
	IssuedAt  metav1.Time `json:"issuedAt"`
	ExpiresAt metav1.Time `json:"expiresAt"`

	Fleet       string   `json:"fleet,omitempty"`
	Publication int64    `json:"publication,omitempty"`
	Clusters    []string `json:"clusters,omitempty"`
	// Base is what was left out.
	Base *Base `json:"base,omitempty"`

	Volumes []Volume        `json:"volumes"`
	Entries []*mirror.Entry `json:"entries"`
	// Held are blobs and manifests of the entries that the receiver is said to have.
	Held []Held `json:"held,omitempty"`
	// Kept are manifests of the closure that the receiver is said to have whole, and that need no tag: by repository,
	// the first 8 bytes of their digests, sorted, base64.
	Kept map[string]string `json:"kept,omitempty"`
}

// Held is a blob or manifest that is left out, and repositories of the receiver that have it.
type Held struct {
	mirror.Blob `json:",inline"`
	In          []string `json:"in"`
}

// Base is what the receiver was taken to have.
type Base struct {
	// Digest of the have, or of the earlier export's index.
	Digest   digest.Digest `json:"digest"`
	Registry string        `json:"registry,omitempty"`
	Sequence int64         `json:"sequence,omitempty"`
}

// Volume is one file of an export: a tar that is an OCI layout by itself.
type Volume struct {
	Name   string        `json:"name"`
	Size   int64         `json:"size"`
	Digest digest.Digest `json:"digest"`
	Blobs  []Placed      `json:"blobs"`
}

// Placed is a blob or manifest in a volume: Offset is where its content begins.
type Placed struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Offset int64         `json:"offset"`
}

// Bytes is the size of all volumes.
func (x *Index) Bytes() int64 {
	var n int64
	for _, volume := range x.Volumes {
		n += volume.Size
	}
	return n
}

// Holdings are what a receiver has after the import.
func (x *Index) Holdings() (*mirror.Holdings, error) {
	var base mirror.Have
	have, err := base.With(x.Closure(), "", x.IssuedAt.Time)
	if err != nil {
		return nil, err
	}
	holdings, err := have.Holdings()
	if err != nil {
		return nil, err
	}
	for _, held := range x.Held {
		holdings.Add(held.Digest, held.In...)
	}
	kept, err := x.kept()
	for repository, digests := range kept {
		for _, short := range digests {
			holdings.AddShort(short, repository)
		}
	}
	return holdings, err
}

// Closure is what the index describes, without what is kept.
func (x *Index) Closure() *mirror.Closure {
	return &mirror.Closure{Fleet: x.Fleet, Publication: x.Publication, Clusters: x.Clusters, Entries: x.Entries}
}

const (
	// maxVolumes stops indexes that ask for media without end.
	maxVolumes = 10_000
	// maxStream stops names that no file system takes.
	maxStream = 63
)

var (
	streamPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// check refuses an index that contradicts itself, whoever signed it. It is pure.
func (x *Index) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("index: %w: %s", oci.ErrDamaged, fmt.Sprintf(format, args...)))
	}
	if x.Content != ContentFleet && x.Content != ContentStatus {
		bad("content %q", x.Content)
	}
	if len(x.Stream) > maxStream || !streamPattern.MatchString(x.Stream) || x.Sequence <= 0 {
		bad("stream %q, sequence %d", x.Stream, x.Sequence)
	}
	if len(x.Volumes) > maxVolumes {
		bad("%d volumes", len(x.Volumes))
	}
	placed := map[digest.Digest]int64{}
	names := map[string]bool{}
	for _, volume := range x.Volumes {
		if err := volume.check(placed); err != nil {
			errs = append(errs, err)
		}
		if names[volume.Name] {
			bad("volume %q is there twice", volume.Name)
		}
		names[volume.Name] = true
	}
	for _, held := range x.Held {
		if held.Digest.Validate() != nil || held.Size < 0 {
			bad("held blob %q", held.Digest)
			continue
		}
		placed[held.Digest] = held.Size
	}
	if _, err := x.kept(); err != nil {
		errs = append(errs, err)
	}
	if errs == nil {
		for _, entry := range x.Entries {
			if err := x.checkEntry(entry, placed); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (v *Volume) check(placed map[digest.Digest]int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("index: volume %q: %w: %s", v.Name, oci.ErrDamaged, fmt.Sprintf(format, args...))
	}
	if path.Base(v.Name) != v.Name || !strings.HasSuffix(v.Name, ".tar") || strings.ContainsAny(v.Name, `\:`) || strings.HasPrefix(v.Name, ".") {
		return bad("a name that isn't a tar's")
	}
	if v.Digest.Validate() != nil || v.Size < 0 {
		return bad("digest %q, %d bytes", v.Digest, v.Size)
	}
	end := int64(0)
	for _, blob := range v.Blobs {
		switch {
		case blob.Digest.Validate() != nil || blob.Digest.Algorithm() != digest.SHA256:
			return bad("digest %q", blob.Digest)
		case blob.Size < 0 || blob.Size > archive.MaxTarFile || blob.Offset < end || blob.Offset > math.MaxInt64-blob.Size || blob.Offset+blob.Size > v.Size:
			return bad("%s at byte %d with %d bytes", blob.Digest, blob.Offset, blob.Size)
		}
		if _, twice := placed[blob.Digest]; twice {
			return bad("%s is there twice", blob.Digest)
		}
		placed[blob.Digest] = blob.Size
		end = blob.Offset + blob.Size
	}
	return nil
}

func (x *Index) checkEntry(entry *mirror.Entry, placed map[digest.Digest]int64) error {
	if entry == nil {
		return fmt.Errorf("index: %w: an empty entry", oci.ErrDamaged)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("index: %s@%s: %w: %s", entry.Repository, entry.Digest, oci.ErrDamaged, fmt.Sprintf(format, args...))
	}
	isStatus := strings.HasPrefix(entry.Repository, "status/")
	switch {
	case isStatus != (x.Content == ContentStatus):
		return bad("this repository has no place in an export of the %s", x.Content)
	case entry.Repository == mirror.RepositoryReceipt:
		return bad("receipts are not mirrored")
	case !oci.IsManifest(entry.MediaType):
		return bad("media type %q", entry.MediaType)
	case entry.Size > oci.MaxManifest:
		return bad("a manifest of %d bytes", entry.Size)
	}
	for _, tag := range slices.Concat(entry.Tags, entry.Moving) {
		if !tagPattern.MatchString(tag) {
			return bad("tag %q", tag)
		}
	}
	if entry.Held {
		return nil
	}
	for _, blob := range append([]mirror.Blob{{Digest: entry.Digest, Size: entry.Size}}, entry.Blobs...) {
		size, ok := placed[blob.Digest]
		if !ok {
			return bad("%s is neither in a volume nor held", blob.Digest)
		}
		if size != blob.Size {
			return bad("%s has %d bytes, and %d elsewhere", blob.Digest, blob.Size, size)
		}
	}
	return nil
}

// expired says whether the index is too old to be imported. It is pure.
func (x *Index) expired(now time.Time) bool {
	return !x.ExpiresAt.IsZero() && now.After(x.ExpiresAt.Time)
}
