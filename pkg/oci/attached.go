package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci/internal/verified"
)

const (
	// MaxReferrers stops lists of referrers that never end: whoever may push to a repository may add to them.
	MaxReferrers = 1000
	// maxReferrerPages stops lists whose pages are small or empty.
	maxReferrerPages = 50
)

// Attached is a manifest that belongs to another one: its signatures, attestations or SBOMs.
type Attached = verified.Attached

// SignatureTag is the tag under which cosign keeps a manifest's signatures: sha256-<hex>.sig.
//
// See https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md#tag-based-discovery
func SignatureTag(d digest.Digest) string { return ReferrersTag(d) + ".sig" }

// AttestationTag is the tag under which cosign keeps a manifest's attestations: sha256-<hex>.att.
func AttestationTag(d digest.Digest) string { return ReferrersTag(d) + ".att" }

// ReferrersTag is the tag of the index of a manifest's referrers where the registry has no referrers API: sha256-<hex>.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema
func ReferrersTag(d digest.Digest) string { return strings.ReplaceAll(d.String(), ":", "-") }

// AttachedTags returns every tag that may hold what belongs to a manifest: cosign's three, and the index of referrers.
func AttachedTags(d digest.Digest) []string {
	return []string{SignatureTag(d), AttestationTag(d), ReferrersTag(d) + ".sbom", ReferrersTag(d)}
}

// ListAttached returns everything that belongs to a manifest, in both layouts: what cosign's tags hold, and the
// referrers that the registry's API or the index under the referrers tag names. The index itself is not in the list;
// [PushAttached] keeps it. More than [MaxReferrers] are [ErrTooLarge].
func ListAttached(ctx context.Context, repo Repository, subject ocispec.Descriptor) ([]Attached, error) {
	var all []Attached
	for _, tag := range AttachedTags(subject.Digest)[:3] {
		desc, err := repo.Resolve(ctx, tag)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list what is attached to %s@%s: %w", repo, subject.Digest, err)
		}
		all = append(all, Attached{Descriptor: desc, Tag: tag})
	}
	referrers, native, err := listReferrers(ctx, repo, subject)
	if err == nil && native {
		// Copiers that know only tags leave the index where the API doesn't look.
		var tagged []ocispec.Descriptor
		tagged, err = taggedReferrers(ctx, repo, subject)
		referrers = append(referrers, tagged...)
	}
	if err != nil {
		return nil, fmt.Errorf("list what is attached to %s@%s: %w", repo, subject.Digest, err)
	}
	for _, desc := range referrers {
		if !slices.ContainsFunc(all, func(a Attached) bool { return a.Descriptor.Digest == desc.Digest }) {
			all = append(all, Attached{Descriptor: desc})
		}
	}
	return all, nil
}

// Referrers returns the manifests that name the subject, by the registry's referrers API, or by the index under the
// referrers tag where there is none. More than [MaxReferrers] are [ErrTooLarge].
func Referrers(ctx context.Context, repo Repository, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	list, _, err := listReferrers(ctx, repo, subject)
	return list, err
}

// nativeReferrers is a repository on a registry, which lists referrers by itself where it can.
type nativeReferrers interface {
	// listReferrers falls back on the referrers tag. native says that the API answered.
	listReferrers(ctx context.Context, subject ocispec.Descriptor) (list []ocispec.Descriptor, native bool, err error)
}

// asNative looks through what only remembers.
func asNative(repo Repository) (nativeReferrers, bool) {
	if view, ok := repo.(*remembering); ok {
		repo = view.Repository
	}
	registry, ok := repo.(nativeReferrers)
	return registry, ok
}

func listReferrers(ctx context.Context, repo Repository, subject ocispec.Descriptor) (list []ocispec.Descriptor, native bool, err error) {
	if registry, ok := asNative(repo); ok {
		list, native, err = registry.listReferrers(ctx, subject)
		if errors.Is(err, ErrNotFound) {
			return nil, native, nil // an absent repository holds nothing
		}
		return list, native, err
	}
	list, err = taggedReferrers(ctx, repo, subject)
	return list, false, err
}

// taggedReferrers reads the index under the referrers tag. Something else under that tag is no index.
func taggedReferrers(ctx context.Context, repo Repository, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	desc, data, err := FetchTagged(ctx, repo, ReferrersTag(subject.Digest))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case desc.MediaType != ocispec.MediaTypeImageIndex || desc.Digest == subject.Digest:
		return nil, nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s:%s: %w: %w", repo, ReferrersTag(subject.Digest), ErrDamaged, err)
	}
	if len(index.Manifests) > MaxReferrers {
		return nil, tooManyReferrers(repo, subject)
	}
	return index.Manifests, nil
}

func tooManyReferrers(repo Repository, subject ocispec.Descriptor) error {
	return fmt.Errorf("%s@%s: %w: more than %d referrers", repo, subject.Digest, ErrTooLarge, MaxReferrers)
}

// tagFetcher reads what a tag points at without asking for its digest before.
type tagFetcher interface {
	fetchTagged(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error)
}

// FetchTagged reads the manifest behind a tag: one request on a registry. Its digest is checked, but nobody vouches for
// it; at most [MaxManifest] bytes.
func FetchTagged(ctx context.Context, repo Repository, reference string) (ocispec.Descriptor, []byte, error) {
	registry, ok := repo.(tagFetcher)
	if !ok {
		desc, err := repo.Resolve(ctx, reference)
		if err != nil {
			return desc, nil, err
		}
		data, err := ReadAll(ctx, repo, desc, MaxManifest)
		return desc, data, err
	}
	desc, reader, err := registry.fetchTagged(ctx, reference)
	if err != nil {
		return desc, nil, err
	}
	defer func() { _ = reader.Close() }()
	data, err := readBounded(repo, reader, desc, MaxManifest)
	return desc, data, err
}

// PushAttached stores a manifest that names a subject, so that [Referrers] finds it: what has no referrers API gets an
// index under the referrers tag.
func PushAttached(ctx context.Context, repo Repository, desc ocispec.Descriptor, data []byte) error {
	if err := repo.Push(ctx, desc, data); err != nil {
		return err
	}
	if _, ok := asNative(repo); ok {
		return nil // it keeps the index by itself
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return fmt.Errorf("%s@%s: %w: %w", repo, desc.Digest, ErrDamaged, err)
	}
	if manifest.Subject == nil {
		return fmt.Errorf("%s@%s: %w: it names no subject", repo, desc.Digest, ErrDamaged)
	}
	list, err := taggedReferrers(ctx, repo, *manifest.Subject)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	entry := plain(desc)
	entry.ArtifactType, entry.Annotations = manifest.ArtifactType, manifest.Annotations
	if entry.ArtifactType == "" {
		entry.ArtifactType = manifest.Config.MediaType
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(list, entry),
	})
	if err != nil {
		return err
	}
	blob := Blob{MediaType: ocispec.MediaTypeImageIndex, Data: index}
	return repo.Push(ctx, blob.Descriptor(), index, ReferrersTag(manifest.Subject.Digest))
}

// Copy copies a manifest with its config and layers, and everything that is attached to it, and points the tags at it.
// What dst has is not read from src. Every byte is checked against its digest.
func Copy(ctx context.Context, src, dst Repository, desc ocispec.Descriptor, tags ...string) error {
	attached, err := ListAttached(ctx, src, desc)
	if err != nil {
		return err
	}
	return copyWith(ctx, src, dst, desc, attached, tags...)
}

// CopyVerified copies as [Copy] does, but of what is attached only the evidence: what verifying again needs. Where that
// is gone since, because somebody signed again, it is everything that is attached now.
func CopyVerified(ctx context.Context, src, dst Repository, verified Verified, tags ...string) error {
	if verified.IsZero() {
		return fmt.Errorf("copy from %s: %w", src, ErrNotVerified)
	}
	err := copyWith(ctx, src, dst, verified.Descriptor(), verified.Evidence(), tags...)
	if errors.Is(err, ErrNotFound) {
		return Copy(ctx, src, dst, verified.Descriptor(), tags...)
	}
	return err
}

func copyWith(ctx context.Context, src, dst Repository, desc ocispec.Descriptor, attached []Attached, tags ...string) error {
	data, err := copyBlobs(ctx, src, dst, desc)
	if err != nil {
		return err
	}
	// What is attached comes first where it may, so that whoever sees the tag finds the signatures.
	if len(tags) > 0 {
		if err := dst.Push(ctx, desc, data); err != nil {
			return fmt.Errorf("copy to %s: %w", dst, err)
		}
	}
	for _, one := range attached {
		manifest, err := copyBlobs(ctx, src, dst, one.Descriptor)
		if err == nil && one.Tag == "" {
			err = PushAttached(ctx, dst, plain(one.Descriptor), manifest)
		} else if err == nil {
			err = dst.Push(ctx, plain(one.Descriptor), manifest, one.Tag)
		}
		if err != nil {
			return fmt.Errorf("copy what is attached to %s@%s: %w", src, desc.Digest, err)
		}
	}
	if err := dst.Push(ctx, desc, data, tags...); err != nil {
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	return nil
}

// copyBlobs copies what a manifest names and returns the manifest.
func copyBlobs(ctx context.Context, src, dst Repository, desc ocispec.Descriptor) ([]byte, error) {
	manifest, data, err := ReadManifest(ctx, src, desc)
	if err != nil {
		return nil, err
	}
	for _, blob := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		exists, err := dst.Exists(ctx, blob)
		if err != nil {
			return nil, fmt.Errorf("copy to %s: %w", dst, err)
		}
		if exists {
			continue
		}
		data, err := ReadAll(ctx, src, blob, MaxBundleContent)
		if err != nil {
			return nil, err
		}
		if err := dst.Push(ctx, blob, data); err != nil {
			return nil, fmt.Errorf("copy to %s: %w", dst, err)
		}
	}
	return data, nil
}
