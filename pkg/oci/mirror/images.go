package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// imageWalk is an image that bundles name.
type imageWalk struct {
	reference string
	digest    digest.Digest
	bundles   []string
	targets   []*Entry
}

// image remembers an image of a bundle; the caller holds the lock.
func (w *walker) image(image v1alpha1.Image, bundle string, wanted []wantedBundle) {
	key := image.Reference + "@" + image.Digest
	walk := w.images[key]
	if walk == nil {
		walk = &imageWalk{reference: image.Reference, digest: digest.Digest(image.Digest)}
		w.images[key] = walk
	}
	walk.bundles = append(walk.bundles, bundle)
	for _, one := range wanted {
		walk.targets = append(walk.targets, one.target)
	}
}

func (w *walker) allImages(ctx context.Context) error {
	var all []*imageWalk
	for _, walk := range w.images {
		all = append(all, walk)
	}
	mirror, err := w.isMirror(ctx)
	if err != nil {
		return err
	}
	return w.each(ctx, len(all), func(ctx context.Context, i int) error { return w.walkImage(ctx, all[i], mirror) })
}

// isMirror says whether the sender is itself a mirror, which has the images beside the fleet.
func (w *walker) isMirror(ctx context.Context) (bool, error) {
	repo, err := w.Registry.Repository(RepositoryReceipt)
	if err != nil {
		return false, err
	}
	_, err = repo.Resolve(ctx, v1alpha1.TagCurrent)
	if errors.Is(err, oci.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// walkImage enters an image. One that can't be read is listed, and keeps the targets that need it from moving.
func (w *walker) walkImage(ctx context.Context, walk *imageWalk, mirror bool) error {
	entry, err := w.findImage(ctx, walk, mirror)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	key := "image " + walk.reference
	switch {
	case err == nil:
		key = entry.Key()
	case IsRefusal(err):
		if err := w.refuse(ctx, key, err); err != nil {
			return err
		}
	default:
		w.missing(walk.reference, err)
	}
	for _, target := range walk.targets {
		w.need(target, key)
	}
	return nil
}

func (w *walker) findImage(ctx context.Context, walk *imageWalk, mirror bool) (*Entry, error) {
	name, err := oci.ParseImage(walk.reference)
	if err != nil {
		return nil, err
	}
	if walk.digest != "" {
		name.Digest = walk.digest
	}
	s, desc, err := w.locate(ctx, name, mirror)
	if err != nil {
		return nil, err
	}
	signers, err := w.verifyImage(ctx, s, name, desc)
	if err != nil {
		return nil, err
	}
	entry := &Entry{
		Kind: KindImage, Reference: walk.reference, Tags: []string{contentTag(desc.Digest)}, Why: whyImage(walk.bundles), Signers: signers,
	}
	if name.Tag != "" {
		entry.Moving = []string{name.Tag} // a tag of an image may move, and runtimes pull by it
	}
	if name.Digest == "" {
		w.mu.Lock()
		w.closure.Resolved = append(w.closure.Resolved, Problem{
			Subject: walk.reference, Message: fmt.Sprintf("resolved now, as %s; its bundle records no digest", desc.Digest),
		})
		w.mu.Unlock()
	}
	return entry, w.add(ctx, s, desc, entry)
}

// verifyImage asks the policy, where it has rules for images, and returns who signed.
func (w *walker) verifyImage(ctx context.Context, s *source, name oci.ImageName, desc ocispec.Descriptor) ([]string, error) {
	policy, ok := w.Verifier.(ImageVerifier)
	if !ok || !policy.ImageRules() {
		return nil, nil
	}
	full := name.Host + "/" + name.Repository
	verified, err := w.Verifier.Verify(ctx, s.repo, v1alpha1.ImageScheme+full, desc)
	if !IsRefusal(err) {
		return verified.Signers(), err
	}
	// A rule may let images without signatures pass.
	return nil, policy.VerifyImage(ctx, full+"@"+desc.Digest.String(), func(oci.ImageName) ([]oci.Repository, error) {
		return []oci.Repository{s.repo}, nil
	})
}

// locate finds where the image is read: beside the fleet where the sender is a mirror, or else at its own registry.
func (w *walker) locate(ctx context.Context, name oci.ImageName, mirror bool) (*source, ocispec.Descriptor, error) {
	reference := name.Tag
	if name.Digest != "" {
		reference = name.Digest.String()
	}
	if mirror {
		s, err := w.own(name.Mirrored())
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		desc, err := s.repo.Resolve(ctx, reference)
		if err == nil || !errors.Is(err, oci.ErrNotFound) {
			return s, desc, err
		}
	}
	s, err := w.foreign(name)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	desc, err := s.repo.Resolve(ctx, reference)
	return s, desc, err
}

// foreign returns an image's own repository.
func (w *walker) foreign(name oci.ImageName) (*source, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := "foreign " + name.Mirrored()
	if s := w.sources[key]; s != nil {
		return s, nil
	}
	if w.Host == nil {
		return nil, fmt.Errorf("registry %s: %w: images of other registries are not read", name.Host, oci.ErrUnsupported)
	}
	if w.registries[name.Host] == nil {
		registry, err := w.Host(name.Host)
		if err != nil {
			return nil, err
		}
		w.registries[name.Host] = registry
	}
	repo, err := w.registries[name.Host].Repository(name.Repository)
	if err != nil {
		return nil, err
	}
	s := &source{repo: repo, name: name.Mirrored(), origin: name.Host + "/" + name.Repository}
	w.sources[key] = s
	return s, nil
}

func whyImage(bundles []string) []string {
	var why []string
	for _, bundle := range bundles {
		why = append(why, "image of bundle "+bundle)
	}
	return why
}

// rollouts adds the gates that targets of the closure wait for.
func (w *walker) rollouts(ctx context.Context) error {
	for name := range w.gates {
		if err := w.allTags(ctx, name, KindRollout, "gate of "+name); err != nil {
			return err
		}
	}
	return nil
}
