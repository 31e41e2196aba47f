package medium

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// VolumeError says what is wrong with a volume, and how it is mended.
type VolumeError struct {
	Volume  string
	Missing bool
	Err     error // why it is damaged, when it isn't missing
}

func (e *VolumeError) Error() string {
	if e.Missing {
		return fmt.Sprintf("%s is missing; bring it, or make it again with: pinnace mirror export --repair", e.Volume)
	}
	return fmt.Sprintf("%s is damaged; make it again with: pinnace mirror export --repair (%v)", e.Volume, e.Err)
}

func (e *VolumeError) Unwrap() error {
	if e.Missing {
		return oci.ErrNotFound
	}
	return e.Err
}

// Verify reads every volume and returns what is wrong with each: nil when all is well. Beside the digests it checks that
// a volume is nothing but an OCI layout with the blobs that the index names.
func (m *Medium) Verify(ctx context.Context, done func(volume string, bytes int64)) []error {
	var errs []error
	for _, volume := range m.index.Volumes {
		err := m.checkVolume(ctx, volume)
		if ctx.Err() != nil {
			return append(errs, ctx.Err())
		}
		if err != nil {
			errs = append(errs, err)
		}
		if done != nil {
			done(volume.Name, volume.Size)
		}
	}
	return errs
}

func (m *Medium) checkVolume(ctx context.Context, volume Volume) error {
	file := m.files[volume.Name]
	if file == nil {
		return &VolumeError{Volume: volume.Name, Missing: true}
	}
	damaged := func(err error) error {
		return &VolumeError{Volume: volume.Name, Err: fmt.Errorf("%w: %w", oci.ErrDamaged, err)}
	}
	info, err := file.Stat()
	if err != nil {
		return damaged(err)
	}
	if info.Size() != volume.Size {
		return damaged(fmt.Errorf("it has %d bytes, and not %d", info.Size(), volume.Size))
	}
	sum := digest.SHA256.Digester()
	in := &contextReader{ctx: ctx, r: io.TeeReader(io.NewSectionReader(file, 0, volume.Size), sum.Hash())}
	left := map[string]Placed{}
	for _, blob := range volume.Blobs {
		left[blobName(blob.Digest)] = blob
	}
	limits := archive.Limits{Packed: volume.Size, Unpacked: max(volume.Size, 1), Files: len(volume.Blobs) + 2}
	err = archive.WalkTar(in, limits, func(name string, size int64, content io.Reader) error {
		switch name {
		case ocispec.ImageLayoutFile, ocispec.ImageIndexFile:
			return nil
		}
		blob, ok := left[name]
		if !ok || size != blob.Size {
			return fmt.Errorf("%q of %d bytes is not in the index", name, size)
		}
		delete(left, name)
		got, err := digest.SHA256.FromReader(content)
		if err == nil && got != blob.Digest {
			err = fmt.Errorf("%q has the digest %s", name, got)
		}
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return damaged(err)
	}
	if len(left) > 0 {
		return damaged(fmt.Errorf("%d blobs are not in it", len(left)))
	}
	if got := sum.Digest(); got != volume.Digest {
		return damaged(fmt.Errorf("it has the digest %s, and not %s", got, volume.Digest))
	}
	return nil
}

// VerifySignatures checks by the receiver's policy, and by the trust root as far as the medium carries it, what agents
// will check: the fleet index, targets and bundles. It reads from the volumes that are there and from what stands
// behind. It returns refusals, each with its subject.
func (m *Medium) VerifySignatures(ctx context.Context, verifier mirror.Verifier) ([]mirror.Problem, error) {
	if err := mirror.Follow(ctx, verifier, m); err != nil {
		return nil, err
	}
	var refused []mirror.Problem
	for _, entry := range m.index.Entries {
		if entry.Held || !signed(entry) {
			continue // what the receiver has was verified when it came
		}
		repo, err := m.Repository(entry.Repository)
		if err != nil {
			return nil, err
		}
		_, err = verifier.Verify(ctx, repo, entry.Repository, entry.Descriptor())
		switch {
		case err == nil:
		case mirror.IsRefusal(err), errors.Is(err, oci.ErrDamaged), errors.Is(err, oci.ErrNotFound):
			refused = append(refused, mirror.Problem{Subject: entry.Repository + "@" + entry.Digest.String(), Message: err.Error()})
		default:
			return nil, err
		}
	}
	return refused, nil
}

// blame tells what the policy refuses from what could not be verified because the medium is damaged: then it is not the
// signer who is to be asked. It returns the rest, and the volumes.
func (m *Medium) blame(ctx context.Context, refused []mirror.Problem) (rest []mirror.Problem, volumes []string) {
	for _, problem := range refused {
		damaged := m.damagedAround(ctx, problem.Subject)
		if len(damaged) == 0 {
			rest = append(rest, problem)
		}
		volumes = append(volumes, damaged...)
	}
	slices.Sort(volumes)
	return rest, slices.Compact(volumes)
}

// damagedAround hashes what verifying an entry reads: its manifest, those that speak of it, and their small blobs. It
// returns the volumes of what is damaged.
func (m *Medium) damagedAround(ctx context.Context, key string) []string {
	repository, subject, _ := strings.Cut(key, "@")
	var volumes []string
	for _, entry := range m.index.Entries {
		attached := entry.Repository == repository &&
			(entry.Subject.String() == subject || strings.HasPrefix(firstTag(entry), strings.Replace(subject, ":", "-", 1)))
		if entry.Key() != key && !attached {
			continue
		}
		for _, blob := range append(entry.Blobs[:len(entry.Blobs):len(entry.Blobs)], mirror.Blob{Digest: entry.Digest, Size: entry.Size}) {
			at, placed := m.places[blob.Digest]
			if placed && blob.Size <= oci.MaxManifest && m.files[at.volume] != nil && !intact(ctx, m.files[at.volume], at.Placed) {
				volumes = append(volumes, at.volume)
			}
		}
	}
	return volumes
}

// signed says whether the receiver's policy speaks of an entry. It goes by the repository: the entry's kind is only what
// the sender says.
func signed(entry *mirror.Entry) bool {
	if entry.Subject != "" || strings.HasPrefix(firstTag(entry), "sha256-") {
		return false // a signature, or what else speaks of another manifest
	}
	return entry.Repository == "fleet" || strings.HasPrefix(entry.Repository, "targets/") || strings.HasPrefix(entry.Repository, "bundles/")
}

func firstTag(entry *mirror.Entry) string {
	if len(entry.Tags) == 0 {
		return ""
	}
	return entry.Tags[0]
}

func blobDescriptor(blob mirror.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: blob.Digest, Size: blob.Size}
}
