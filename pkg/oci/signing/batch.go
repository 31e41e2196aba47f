package signing

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// maxSubjects is how many artifacts one statement is about: 5,000 targets cost 20 signatures, and each agent reads the
// 40 KiB that name its neighbours' digests.
const maxSubjects = 256

// Item is a manifest that is to be signed, in its repository.
type Item struct {
	Repository oci.Repository
	Descriptor ocispec.Descriptor
}

// SignAll signs manifests, jobs at a time, and returns how many signatures it made. Those that this signer signed before
// are left alone. A key signs each. A KMS and an identity sign statements about up to 256 of them; each gets the bundle
// attached. The first error ends it; running it again goes on from there.
func (s *Signer) SignAll(ctx context.Context, items []Item, jobs int) (int, error) {
	if !s.batches || len(items) < 2 {
		return s.signEach(ctx, items, jobs)
	}
	signed := make([]bool, len(items))
	err := each(ctx, len(items), jobs, func(ctx context.Context, i int) (err error) {
		signed[i], err = s.signed(ctx, items[i].Repository, items[i].Descriptor, evidence.FormatBundle)
		if err != nil {
			err = fmt.Errorf("sign %s@%s: %w", items[i].Repository, items[i].Descriptor.Digest, err)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	var left []Item
	for i, item := range items {
		if !signed[i] {
			left = append(left, item)
		}
	}
	made := 0
	for batch := range slices.Chunk(left, maxSubjects) {
		if err := s.signBatch(ctx, batch, jobs); err != nil {
			return made, err
		}
		made++
	}
	return made, nil
}

func (s *Signer) signEach(ctx context.Context, items []Item, jobs int) (int, error) {
	var made atomic.Int64
	err := each(ctx, len(items), jobs, func(ctx context.Context, i int) error {
		created, err := s.Sign(ctx, items[i].Repository, items[i].Descriptor)
		if created {
			made.Add(1)
		}
		return err
	})
	return int(made.Load()), err
}

func (s *Signer) signBatch(ctx context.Context, batch []Item, jobs int) error {
	all := make([]ocispec.Descriptor, len(batch))
	for i, item := range batch {
		all[i] = item.Descriptor
	}
	bundle, err := s.bundle(ctx, s.statementOf(all...))
	if err != nil {
		return fmt.Errorf("sign %d artifacts at once: %w", len(batch), err)
	}
	return each(ctx, len(batch), jobs, func(ctx context.Context, i int) error {
		if err := attachBundle(ctx, batch[i].Repository, batch[i].Descriptor, bundle); err != nil {
			return fmt.Errorf("sign %s@%s: %w", batch[i].Repository, batch[i].Descriptor.Digest, err)
		}
		return nil
	})
}

func each(ctx context.Context, n, jobs int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, jobs))
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
