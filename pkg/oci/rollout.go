package oci

import (
	"context"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// MaxGate stops gates and plans that fill the memory of a small node: real ones have a few kilobytes.
const MaxGate = 256 << 10

// FetchGate reads a rollout's gate.
func FetchGate(ctx context.Context, repo Repository, verified Verified) (v1alpha1.RolloutGate, error) {
	var gate v1alpha1.RolloutGate
	err := fetchDocument(ctx, repo, verified, v1alpha1.ArtifactTypeGate, v1alpha1.MediaTypeGate, MaxGate,
		v1alpha1.KindRolloutGate, &gate, &gate.TypeMeta)
	return gate, err
}

// FetchPlan reads a rollout's plan.
func FetchPlan(ctx context.Context, repo Repository, verified Verified) (v1alpha1.RolloutPlan, error) {
	var plan v1alpha1.RolloutPlan
	err := fetchDocument(ctx, repo, verified, v1alpha1.ArtifactTypePlan, v1alpha1.MediaTypePlan, MaxGate,
		v1alpha1.KindRolloutPlan, &plan, &plan.TypeMeta)
	return plan, err
}
