package medium

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
)

// Sign puts a payload of a type into a signed DSSE envelope; signing.Signer does.
type Sign func(ctx context.Context, payloadType string, payload []byte) ([]byte, error)

// ExportOptions say what is exported and how.
type ExportOptions struct {
	Closure *mirror.Closure
	// Open returns the repository that an entry is read from.
	Open func(entry *mirror.Entry) (oci.Repository, error)
	Dir  string
	// Content is fleet when empty.
	Content string
	// Stream is "fleet" when empty; Sequence the time of issue in milliseconds when zero, and more than the base's.
	Stream   string
	Sequence int64
	// Have is what the receiver has; nothing when nil. Base says where that is known from.
	Have *mirror.Holdings
	Base *Base
	// VolumeSize bounds each volume; one volume when zero.
	VolumeSize int64
	// Validity is how long it may be imported; for ever when zero.
	Validity time.Duration
	Sign     Sign
	Now      time.Time

	Engine   *transfer.Engine
	Journal  *transfer.Journal
	Jobs     int
	Progress func(mirror.Progress)
}

// JournalFile is the journal in an export's folder while it is being written.
const JournalFile = ".pinnace-export.journal"

// Export writes an export. One that was interrupted goes on where it stopped. The index is written last: a folder
// without one is no export.
func Export(ctx context.Context, opts ExportOptions) (*Index, error) {
	closure, kept := trim(opts.Closure, opts.Have)
	volumes, held, err := pack(closure, opts.Have, opts.VolumeSize)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	if _, err := os.Stat(filepath.Join(opts.Dir, IndexFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("export to %s: an export is there already; name another folder, or make damaged volumes again with --repair", opts.Dir)
	}
	now := opts.Now.UTC().Truncate(time.Second)
	index := &Index{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: mirror.KindIndex},
		Content:  cmp.Or(opts.Content, ContentFleet), Stream: cmp.Or(opts.Stream, ContentFleet), Sequence: opts.sequence(),
		IssuedAt: metav1.NewTime(now), Fleet: opts.Closure.Fleet, Publication: opts.Closure.Publication, Clusters: opts.Closure.Clusters,
		Base: opts.Base, Entries: closure.Entries, Held: held, Kept: kept,
	}
	if opts.Validity > 0 {
		index.ExpiresAt = metav1.NewTime(now.Add(opts.Validity))
	}
	w := writer{ExportOptions: opts}
	if err := w.write(ctx, volumes); err != nil {
		return nil, err
	}
	for _, volume := range volumes {
		index.Volumes = append(index.Volumes, volume.Volume)
	}
	if err := index.check(); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return index, w.seal(ctx, index)
}

// sequence is more than that of every export of the stream before: in seconds, two of one second would be the same.
func (o *ExportOptions) sequence() int64 {
	if o.Sequence != 0 || o.Base == nil {
		return cmp.Or(o.Sequence, o.Now.UnixMilli())
	}
	return max(o.Now.UnixMilli(), o.Base.Sequence+1)
}

type writer struct {
	ExportOptions

	mu       sync.Mutex
	progress mirror.Progress
}

// seal signs the index and writes it.
func (w *writer) seal(ctx context.Context, index *Index) error {
	payload, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if len(payload) > MaxIndex {
		return fmt.Errorf("export: the index: %w: %d bytes, at most %d are allowed; export fewer clusters at once", oci.ErrTooLarge, len(payload), MaxIndex)
	}
	if payload, err = archive.Gzip(payload); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	envelope, err := w.Sign(ctx, mirror.MediaTypeIndex, payload)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(w.Dir, IndexFile), envelope, 0o644); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// write writes the volumes, one after the other, and the blobs of each at the same time.
func (w *writer) write(ctx context.Context, volumes []volumePlan) error {
	for i := range volumes {
		for _, one := range volumes[i].items {
			w.progress.Want += one.Size
		}
	}
	for i := range volumes {
		if err := w.volume(ctx, &volumes[i]); err != nil {
			return fmt.Errorf("export %s: %w", volumes[i].Name, err)
		}
	}
	return nil
}

func (w *writer) volume(ctx context.Context, volume *volumePlan) error {
	w.progress.Stage, w.progress.Done, w.progress.All = volume.Name, 0, len(volume.items)
	path := filepath.Join(w.Dir, volume.Name)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // closed with its error below
	if err := file.Truncate(volume.Size); err != nil {
		return err
	}
	if err := w.blobs(ctx, file, volume); err != nil {
		return err
	}
	if err := volume.frame(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	sum, err := hashFile(ctx, file)
	if err != nil {
		return err
	}
	volume.Digest = sum
	return file.Close()
}

func (w *writer) blobs(ctx context.Context, file *os.File, volume *volumePlan) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(cmp.Or(w.Jobs, transfer.DefaultJobs), 1))
	for i, one := range volume.items {
		group.Go(func() error {
			place := volume.Blobs[i]
			if err := w.blob(ctx, file, volume.Name, one, place); err != nil {
				return err
			}
			w.step(volume.Name, one.Size)
			return nil
		})
	}
	return group.Wait()
}

func (w *writer) blob(ctx context.Context, file *os.File, name string, one item, place Placed) error {
	header, err := archive.TarHeader(blobName(one.Digest), one.Size)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(header, place.Offset-archive.TarBlock); err != nil {
		return err
	}
	if w.Journal.Done(name, one.Digest) && intact(ctx, file, place) {
		return nil
	}
	from, err := w.Open(one.entry)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: one.Digest, Size: one.Size}
	if one.manifest {
		desc.MediaType = one.entry.MediaType
		data, err := oci.ReadAll(ctx, from, desc, oci.MaxManifest)
		if err != nil {
			return err
		}
		if _, err := file.WriteAt(data, place.Offset); err != nil {
			return err
		}
		w.Journal.SetDone(name, one.Digest)
		return nil
	}
	_, err = w.Engine.ToFile(ctx, from, desc, transfer.Place{File: file, Name: name, Offset: place.Offset, Sync: file.Sync})
	return err
}

func (w *writer) step(subject string, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Subject = subject
	w.progress.Done++
	w.progress.DoneBytes += bytes
	if w.Progress != nil {
		w.Progress(w.progress)
	}
}

// frame writes what stands around the blobs.
func (v *volumePlan) frame(file io.WriterAt) error {
	indexAt := v.Size - archive.TarEnd - archive.TarPadded(int64(len(v.index))) - archive.TarBlock
	for _, part := range []struct {
		name    string
		content []byte
		at      int64
	}{{ocispec.ImageLayoutFile, []byte(layoutMarker), 0}, {ocispec.ImageIndexFile, v.index, indexAt}} {
		header, err := archive.TarHeader(part.name, int64(len(part.content)))
		if err != nil {
			return err
		}
		if _, err := file.WriteAt(append(header, part.content...), part.at); err != nil {
			return err
		}
	}
	// Padding and end are zeros: the file was made as long, and a part that was written before is overwritten.
	return nil
}

// hashFile reads a file from its beginning.
func hashFile(ctx context.Context, file io.ReaderAt) (digest.Digest, error) {
	return digest.SHA256.FromReader(&contextReader{ctx: ctx, r: io.NewSectionReader(file, 0, 1<<62)})
}

// contextReader ends with its context.
type contextReader struct {
	//nolint:containedctx // a reader has no other way to learn that it is no longer wanted
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// intact says whether a blob stands where it should, whole.
func intact(ctx context.Context, file io.ReaderAt, place Placed) bool {
	got, err := digest.SHA256.FromReader(&contextReader{ctx: ctx, r: io.NewSectionReader(file, place.Offset, place.Size)})
	return err == nil && got == place.Digest
}

// RepairOptions say which export is repaired, and from where.
type RepairOptions struct {
	Dir string
	// Open returns the repository that an entry is read from.
	Open     func(entry *mirror.Entry) (oci.Repository, error)
	Trust    Trust
	Engine   *transfer.Engine
	Jobs     int
	Progress func(mirror.Progress)
}

// Repair makes those volumes of an export again that are damaged or missing. They get the same bytes, so that the signed
// index still holds. It returns their names.
func Repair(ctx context.Context, opts RepairOptions) ([]string, error) {
	m, err := Open(ctx, []string{opts.Dir}, opts.Trust)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }()
	index := m.Index()
	var bad []Volume
	for _, volume := range index.Volumes {
		if m.checkVolume(ctx, volume) != nil {
			bad = append(bad, volume)
		}
	}
	w := writer{ExportOptions: ExportOptions{Dir: opts.Dir, Open: opts.Open, Engine: opts.Engine, Jobs: opts.Jobs, Progress: opts.Progress}}
	var again []volumePlan
	var names []string
	for _, volume := range bad {
		again = append(again, replan(index, volume))
		names = append(names, volume.Name)
	}
	if err := w.write(ctx, again); err != nil {
		return names, err
	}
	for i, volume := range bad {
		if again[i].Digest != volume.Digest {
			return names, fmt.Errorf("repair %s: %w: it has the digest %s, and not %s as the index says; export anew", volume.Name, oci.ErrDamaged, again[i].Digest, volume.Digest)
		}
	}
	return names, nil
}

// replan is the plan that a volume was written by.
func replan(index *Index, volume Volume) volumePlan {
	items := map[digest.Digest]item{}
	for _, entry := range index.Entries {
		for i, blob := range append(entry.Blobs[:len(entry.Blobs):len(entry.Blobs)], mirror.Blob{Digest: entry.Digest, Size: entry.Size}) {
			if _, ok := items[blob.Digest]; !ok {
				items[blob.Digest] = item{Blob: blob, entry: entry, manifest: i == len(entry.Blobs)}
			}
		}
	}
	plan := volumePlan{Volume: volume}
	for _, placed := range volume.Blobs {
		plan.items = append(plan.items, items[placed.Digest])
	}
	plan.place()
	return plan
}
