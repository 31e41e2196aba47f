package gates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// consentOf is the artifact that everybody signs who agrees that a step begins: a referrer of the plan. It is the same
// bytes for all, so that k of n is what the signatures on it say.
func consentOf(state State, step string) (oci.Artifact, error) {
	data, err := json.Marshal(v1alpha1.RolloutConsent{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutConsent},
		Fleet:    state.Plan.Fleet, Name: state.Name, Plan: state.Plan.Plan, PlanDigest: state.PlanDesc.Digest.String(), Step: step,
	})
	subject := ocispec.Descriptor{MediaType: state.PlanDesc.MediaType, Digest: state.PlanDesc.Digest, Size: state.PlanDesc.Size}
	return oci.Artifact{
		Type: v1alpha1.ArtifactTypeConsent, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeConsent, Data: data}}, Subject: &subject,
	}, err
}

// Approve signs that a step of the newest plan may begin; the next one that waits when step is empty. It returns the
// step, and whether enough people have approved it now. Only keys that the plan lists count.
func Approve(ctx context.Context, registry oci.Registry, signer Signer, state State, step string) (approved string, enough bool, err error) {
	if state.Plan == nil {
		return "", false, fmt.Errorf("%s: %w", state.Name, ErrNoRollout)
	}
	if !state.Active() {
		return "", false, fmt.Errorf("rollout %s: plan %d is %s; there is nothing to approve", state.Name, state.Plan.Plan, state.Gate.Phase)
	}
	number, err := stepToApprove(state, step)
	if err != nil {
		return "", false, err
	}
	step = state.Plan.Steps[number].Name
	artifact, err := consentOf(state, step)
	if err != nil {
		return step, false, err
	}
	repo, err := registry.Repository(v1alpha1.RolloutRepository(state.Name))
	if err != nil {
		return step, false, err
	}
	// The tag keeps it where registries don't know referrers.
	desc, _, err := oci.Push(ctx, repo, artifact, v1alpha1.ConsentTag(state.Plan.Plan, number))
	if err != nil {
		return step, false, err
	}
	if _, err := signer.Sign(ctx, repo, desc); err != nil {
		return step, false, err
	}
	steps, err := Approved(ctx, registry, state)
	return step, steps[step], err
}

func stepToApprove(state State, name string) (int, error) {
	from := 0
	if state.Gate != nil && state.Gate.Plan == state.Plan.Plan {
		from = state.Gate.Step + 1
	}
	for i, step := range state.Plan.Steps {
		if step.Approval && (name == step.Name || name == "" && i >= from) {
			return i, nil
		}
	}
	if name == "" {
		return 0, fmt.Errorf("rollout %s: no step that is yet to come waits for approval", state.Name)
	}
	return 0, fmt.Errorf("rollout %s: there is no step %q that waits for approval; pinnace rollout status %[1]s lists the steps", state.Name, name)
}

// Approved returns the steps of the newest plan that enough of the listed people approved.
func Approved(ctx context.Context, registry oci.Registry, state State) (map[string]bool, error) {
	approved := map[string]bool{}
	if state.Plan == nil || state.Plan.Strategy.Approval == nil {
		return approved, nil
	}
	name := v1alpha1.RolloutRepository(state.Name)
	repo, err := registry.Repository(name)
	if err != nil {
		return nil, err
	}
	verifier, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{
		Rules: []v1alpha1.TrustRule{{Match: name, Signers: state.Plan.Strategy.Approval.Signers}},
	}}, signing.Options{})
	if err != nil {
		return nil, fmt.Errorf("rollout %s: approval: %w", state.Name, err)
	}
	for i, step := range state.Plan.Steps {
		if !step.Approval {
			continue
		}
		artifact, err := consentOf(state, step.Name)
		if err != nil {
			return nil, err
		}
		desc, err := repo.Resolve(ctx, v1alpha1.ConsentTag(state.Plan.Plan, i))
		switch {
		case errors.Is(err, oci.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		case desc.Digest != artifact.Descriptor().Digest:
			continue // something else under that tag agrees to nothing
		}
		_, err = verifier.Verify(ctx, repo, name, desc)
		var refusal *signing.Error
		switch {
		case err == nil:
			approved[step.Name] = true
		case !errors.As(err, &refusal):
			return nil, fmt.Errorf("approval of step %s: %w", step.Name, err)
		}
	}
	return approved, nil
}
