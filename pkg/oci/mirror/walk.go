package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// IsRefusal says whether a policy refused, and not a registry failed.
func IsRefusal(err error) bool {
	return errors.As(err, new(*signing.Error)) || errors.Is(err, oci.ErrNotVerified)
}

// add reads a manifest, enters it and everything below and attached to it. The entry brings kind, tags and why.
func (w *walker) add(ctx context.Context, s *source, desc ocispec.Descriptor, entry *Entry) error {
	entry.Repository, entry.Origin = s.name, s.origin
	entry.MediaType, entry.Digest, entry.Size = desc.MediaType, desc.Digest, desc.Size
	why := entry.Why // others may add to it once it is entered
	if isNew, err := w.enter(entry); err != nil || !isNew {
		return err
	}
	m, err := readManifest(ctx, s.repo, desc)
	if err != nil {
		return err
	}
	entry.Blobs = m.blobs()
	if m.Subject != nil {
		entry.Subject, entry.ArtifactType = m.Subject.Digest, m.artifactType()
	}
	children := m.chosen(w.platforms(entry))
	if len(m.Manifests) > 0 && len(children) == 0 {
		w.missing(entry.Reference, fmt.Errorf("no platform of %s; it has %s", strings.Join(w.selection.Platforms, ", "), platformsOf(m)))
	}
	for _, child := range children {
		below := &Entry{Kind: KindPlatform, Why: why, Reference: entry.Reference}
		if child.Platform != nil && child.Platform.Architecture != "" {
			below.Why = []string{fmt.Sprintf("platform %s/%s of %s", child.Platform.OS, child.Platform.Architecture, entry.subject())}
		}
		if entry.Kind != KindImage && entry.Kind != KindPlatform {
			below.Kind = entry.Kind
		}
		if err := w.add(ctx, s, child, below); err != nil {
			return err
		}
		entry.Children = append(entry.Children, child.Digest)
		w.need(entry, entryKey(s.name, child.Digest))
	}
	return w.attach(ctx, s, entry)
}

// platforms are chosen of images only: what else is an index is kept whole.
func (w *walker) platforms(entry *Entry) []string {
	if entry.Kind == KindImage || entry.Kind == KindPlatform {
		return w.selection.Platforms
	}
	return nil
}

func platformsOf(m manifest) string {
	var all []string
	for _, child := range m.Manifests {
		if child.Platform != nil {
			all = append(all, child.Platform.OS+"/"+child.Platform.Architecture)
		}
	}
	return strings.Join(all, ", ")
}

// subject names the entry in the reason of another.
func (e *Entry) subject() string {
	if e.Reference != "" {
		return "image " + e.Reference
	}
	return e.Repository
}

// attach enters what is attached to an entry, and what is attached to that: an SBOM may be signed.
func (w *walker) attach(ctx context.Context, s *source, entry *Entry) error {
	found, err := s.attachedTo(ctx, entry.Descriptor())
	if err != nil {
		return err
	}
	signed := false
	for _, one := range found {
		signed = signed || one.kind == KindSignature
		below := &Entry{Kind: one.kind, Why: []string{string(one.kind) + " of " + entry.subject()}, Reference: entry.Reference}
		if one.tag != "" {
			below.Tags = []string{one.tag}
		}
		if err := w.add(ctx, s, one.desc, below); err != nil {
			return err
		}
		w.need(entry, entryKey(s.name, one.desc.Digest))
	}
	if entry.Kind == KindImage && !signed {
		w.mu.Lock()
		w.closure.Unsigned = append(w.closure.Unsigned, Problem{Subject: entry.Reference, Message: "nobody signed it"})
		w.mu.Unlock()
	}
	return nil
}

// enter keeps the entry; false when it is there already, with its reasons and tags added.
func (w *walker) enter(entry *Entry) (isNew bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	there := w.entries[entry.Key()]
	if there == nil {
		if len(w.entries) >= maxEntries {
			return false, fmt.Errorf("closure: %w: more than %d manifests; mirror fewer clusters at once", oci.ErrTooLarge, maxEntries)
		}
		w.entries[entry.Key()] = entry
		return true, nil
	}
	there.Why = append(there.Why, entry.Why...)
	there.Tags = append(there.Tags, entry.Tags...)
	there.Moving = append(there.Moving, entry.Moving...)
	return false, nil
}

func (w *walker) missing(subject string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closure.Missing = append(w.closure.Missing, Problem{Subject: subject, Message: err.Error()})
}
