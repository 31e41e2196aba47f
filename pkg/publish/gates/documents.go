package gates

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Documents returns the digests of a rollout's plans and gates, the older ones too, which tell its history. Those that
// the verifier refuses are left out, and so is what people approved: it is theirs.
func Documents(ctx context.Context, registry oci.Registry, verifier Verifier, rollout string) ([]digest.Digest, error) {
	name := v1alpha1.RolloutRepository(rollout)
	repo, err := registry.Repository(name)
	if err != nil {
		return nil, err
	}
	if _, err := repo.Resolve(ctx, v1alpha1.TagPlan); errors.Is(err, oci.ErrNotFound) {
		return nil, nil
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var found []digest.Digest
	for _, tag := range tags {
		if !isDocument(tag) {
			continue
		}
		desc, err := repo.Resolve(ctx, tag)
		if err == nil && !slices.Contains(found, desc.Digest) {
			if _, err = verifier.Verify(ctx, repo, name, desc); err == nil {
				found = append(found, desc.Digest)
			}
		}
		var refusal *signing.Error
		if err != nil && !errors.Is(err, oci.ErrNotFound) && !errors.As(err, &refusal) {
			return nil, err
		}
	}
	return found, nil
}

// isDocument reports whether a tag is that of a plan or a gate.
func isDocument(tag string) bool {
	kind, number, _ := strings.Cut(tag, "-")
	return (kind == v1alpha1.TagPlan || kind == v1alpha1.TagGate) && !strings.Contains(number, "-")
}
