package medium

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	kjson "sigs.k8s.io/json"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// Trust verifies a DSSE envelope of a payload type and returns the payload, and who signed it.
type Trust func(ctx context.Context, payloadType string, envelope []byte) (payload []byte, signers []string, err error)

// Medium is an export whose index was verified. It is an [oci.Registry] that can only be read.
type Medium struct {
	index   *Index
	digest  digest.Digest
	signers []string
	dirs    []string
	files   map[string]*os.File // by volume, those that are there
	places  map[digest.Digest]place
	held    map[digest.Digest]Held
	// behind is asked for what the medium leaves out because the receiver has it; may be nil.
	behind    oci.Registry
	tags      map[string]ocispec.Descriptor // by repository:tag
	manifests map[string]ocispec.Descriptor // by repository@digest
	lists     map[digest.Digest][]byte      // of referrers, made from the entries
}

type place struct {
	volume string
	Placed
}

// Open reads the signed index of an export, which lies in one folder or is spread over several, and verifies it. Volumes
// may be absent.
func Open(ctx context.Context, dirs []string, trust Trust) (*Medium, error) {
	data, where, err := readIndex(dirs)
	if err != nil {
		return nil, err
	}
	payload, signers, err := trust(ctx, mirror.MediaTypeIndex, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	m := &Medium{
		digest: digest.FromBytes(payload), signers: signers, dirs: dirs, files: map[string]*os.File{}, places: map[digest.Digest]place{},
		held: map[digest.Digest]Held{},
		tags: map[string]ocispec.Descriptor{}, manifests: map[string]ocispec.Descriptor{}, lists: map[digest.Digest][]byte{},
	}
	if m.index, err = decodeIndex(payload); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	for _, volume := range m.index.Volumes {
		for _, blob := range volume.Blobs {
			m.places[blob.Digest] = place{volume: volume.Name, Placed: blob}
		}
	}
	for _, held := range m.index.Held {
		m.held[held.Digest] = held
	}
	for _, entry := range m.index.Entries {
		if entry.Held {
			m.held[entry.Digest] = Held{Blob: mirror.Blob{Digest: entry.Digest, Size: entry.Size}, In: []string{entry.Repository}}
		}
		m.manifests[entry.Key()] = entry.Descriptor()
		for _, tag := range slices.Concat(entry.Tags, entry.Moving) {
			m.tags[entry.Repository+":"+tag] = entry.Descriptor()
		}
	}
	if err := m.listReferrers(); err != nil {
		return nil, err
	}
	return m, m.openVolumes()
}

// listReferrers makes, for each manifest that others speak of, the list that a registry without a referrers API has.
func (m *Medium) listReferrers() error {
	about := map[string][]ocispec.Descriptor{}
	for _, entry := range m.index.Entries {
		if entry.Subject == "" {
			continue
		}
		desc := entry.Descriptor()
		desc.ArtifactType = entry.ArtifactType
		key := entry.Repository + ":" + oci.ReferrersTag(entry.Subject)
		about[key] = append(about[key], desc)
	}
	for key, list := range about {
		data, err := json.Marshal(ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
		})
		if err != nil {
			return err
		}
		blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: data}
		m.tags[key], m.lists[blob.Descriptor().Digest] = blob.Descriptor(), data
	}
	return nil
}

func readIndex(dirs []string) (data []byte, where string, err error) {
	for _, dir := range dirs {
		where = filepath.Join(dir, IndexFile)
		file, err := os.Open(where)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, where, err
		}
		data, err := io.ReadAll(io.LimitReader(file, maxEnvelope+1))
		_ = file.Close()
		if err == nil && len(data) > maxEnvelope {
			err = fmt.Errorf("%s: %w", where, oci.ErrTooLarge)
		}
		return data, where, err
	}
	return nil, "", fmt.Errorf("no %s in %s: %w; name the folder of an export", IndexFile, strings.Join(dirs, ", "), oci.ErrNotFound)
}

func decodeIndex(payload []byte) (*Index, error) {
	payload, err := archive.Gunzip(payload, MaxIndex)
	if errors.Is(err, archive.ErrTooLarge) {
		return nil, fmt.Errorf("index: %w: %w", oci.ErrTooLarge, err)
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w: %w", oci.ErrDamaged, err)
	}
	var index Index
	strict, err := kjson.UnmarshalStrict(payload, &index)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w: %w", oci.ErrDamaged, err)
	}
	if index.APIVersion != v1alpha1.APIVersion || index.Kind != mirror.KindIndex {
		return nil, fmt.Errorf("index: %w: it is a %s %s", oci.ErrDamaged, index.APIVersion, index.Kind)
	}
	return &index, index.check()
}

// openVolumes opens what is there, in whatever folder. A link is not followed: it could lead anywhere.
func (m *Medium) openVolumes() error {
	for _, volume := range m.index.Volumes {
		for _, dir := range m.dirs {
			path := filepath.Join(dir, volume.Name)
			info, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return errors.Join(err, m.Close())
			}
			if !info.Mode().IsRegular() {
				return errors.Join(fmt.Errorf("%s: %w: it is no regular file", path, oci.ErrDamaged), m.Close())
			}
			file, err := os.Open(path)
			if err != nil {
				return errors.Join(err, m.Close())
			}
			m.files[volume.Name] = file
			break
		}
	}
	return nil
}

// Close closes the volumes.
func (m *Medium) Close() error {
	var errs []error
	for _, file := range m.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// Index is what the medium carries.
func (m *Medium) Index() *Index { return m.index }

// Digest is the index's: it names the export.
func (m *Medium) Digest() digest.Digest { return m.digest }

// Signers signed the index.
func (m *Medium) Signers() []string { return m.signers }

// Behind asks another registry for what the medium leaves out.
func (m *Medium) Behind(registry oci.Registry) { m.behind = registry }

// String names the medium for people.
func (m *Medium) String() string { return strings.Join(m.dirs, ",") }

// Repository returns one of the medium's repositories.
func (m *Medium) Repository(name string) (oci.Repository, error) {
	r := &repository{medium: m, name: name}
	if m.behind != nil {
		behind, err := m.behind.Repository(name)
		if err != nil {
			return nil, err
		}
		r.behind = behind
	}
	return r, nil
}

// repository reads one repository of a medium.
type repository struct {
	medium *Medium
	name   string
	behind oci.Repository
}

func (r *repository) String() string { return r.medium.String() + ":" + r.name }

func (r *repository) notFound(what string) error {
	return fmt.Errorf("%s:%s: %w", r, what, oci.ErrNotFound)
}

// Resolve finds a tag or manifest.
func (r *repository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if desc, ok := r.medium.tags[r.name+":"+reference]; ok {
		return desc, nil
	}
	if desc, ok := r.medium.manifests[r.name+"@"+reference]; ok {
		return desc, nil
	}
	if r.behind != nil {
		return r.behind.Resolve(ctx, reference)
	}
	return ocispec.Descriptor{}, r.notFound(reference)
}

// Fetch opens a blob or manifest; its bytes are not verified yet.
func (r *repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if list := r.medium.lists[desc.Digest]; list != nil {
		return io.NopCloser(bytes.NewReader(list)), nil
	}
	return r.OpenAt(ctx, desc, 0)
}

// OpenAt opens a blob at any byte.
func (r *repository) OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	at, ok := r.medium.places[desc.Digest]
	if !ok {
		return r.openBehind(ctx, desc, offset)
	}
	file := r.medium.files[at.volume]
	if file == nil {
		return nil, &VolumeError{Volume: at.volume, Missing: true}
	}
	if desc.Size != at.Size || offset > at.Size {
		return nil, fmt.Errorf("%s@%s: %w: %d bytes, want %d", r, desc.Digest, oci.ErrDamaged, at.Size, desc.Size)
	}
	return io.NopCloser(io.NewSectionReader(file, at.Offset+offset, at.Size-offset)), nil
}

// openBehind opens what the medium leaves out, from wherever the receiver has it.
func (r *repository) openBehind(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if r.behind == nil {
		return nil, r.notFound(desc.Digest.String())
	}
	body, err := r.behind.Fetch(ctx, desc)
	for _, name := range r.medium.held[desc.Digest].In {
		if err == nil || !errors.Is(err, oci.ErrNotFound) {
			break
		}
		var other oci.Repository
		if other, err = r.medium.behind.Repository(name); err == nil {
			body, err = other.Fetch(ctx, desc)
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, body, offset); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return body, nil
}

// Exists says whether the medium has it, or what stands behind.
func (r *repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if at, ok := r.medium.places[desc.Digest]; ok {
		return r.medium.files[at.volume] != nil, nil
	}
	if r.behind == nil {
		return false, nil
	}
	return r.behind.Exists(ctx, desc)
}

// Tags lists the tags.
func (r *repository) Tags(context.Context) ([]string, error) {
	var tags []string
	for key := range r.medium.tags {
		if tag, ok := strings.CutPrefix(key, r.name+":"); ok {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags, nil
}

func (r *repository) readOnly() error {
	return fmt.Errorf("%s: a medium is only read: %w", r, oci.ErrUnsupported)
}

// Push is refused.
func (r *repository) Push(context.Context, ocispec.Descriptor, []byte, ...string) error {
	return r.readOnly()
}

// Tag is refused.
func (r *repository) Tag(context.Context, ocispec.Descriptor, string) error { return r.readOnly() }

// Delete is refused.
func (r *repository) Delete(context.Context, ocispec.Descriptor) error { return r.readOnly() }
