package gates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Verifier checks a manifest's signatures.
type Verifier interface {
	Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error)
}

// Signer signs a manifest.
type Signer interface {
	Sign(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (created bool, err error)
}

// ErrConcurrent says that somebody else moved the gate in the meantime.
var ErrConcurrent = errors.New("somebody else moved the gate in the meantime; run again")

// ErrNoRollout says that there is no such rollout.
var ErrNoRollout = fmt.Errorf("no such rollout: %w", oci.ErrNotFound)

// keptGates is how many older gates stay, for people who want to know.
const keptGates = 20

// DefaultValidity of a gate: who is cut off from newer ones starts nothing new after that.
const DefaultValidity = time.Hour

// State is a rollout as the registry has it.
type State struct {
	Name string
	// Plan is nil when nothing was ever planned.
	Plan     *v1alpha1.RolloutPlan
	PlanDesc ocispec.Descriptor
	// Gate is nil before the first.
	Gate     *v1alpha1.RolloutGate
	GateDesc ocispec.Descriptor
}

// Active reports whether the newest plan is neither completed nor aborted.
func (s *State) Active() bool {
	return s.Plan != nil && (s.Gate == nil || s.Gate.Plan != s.Plan.Plan || !s.Gate.Phase.Final())
}

// Read reads a rollout's newest plan and gate. One that nobody planned has neither.
func Read(ctx context.Context, registry oci.Registry, verifier Verifier, rollout string) (State, error) {
	state := State{Name: rollout}
	name := v1alpha1.RolloutRepository(rollout)
	repo, err := registry.Repository(name)
	if err != nil {
		return state, err
	}
	plan, desc, err := fetch(ctx, repo, verifier, name, v1alpha1.TagPlan, oci.FetchPlan)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return state, nil
	case err != nil:
		return state, fmt.Errorf("plan of rollout %s: %w", rollout, err)
	}
	state.Plan, state.PlanDesc = &plan, desc
	gate, desc, err := fetch(ctx, repo, verifier, name, v1alpha1.TagGate, oci.FetchGate)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return state, nil
	case err != nil:
		return state, fmt.Errorf("gate of rollout %s: %w", rollout, err)
	}
	state.Gate, state.GateDesc = &gate, desc
	return state, nil
}

// ReadPlan reads an earlier plan.
func ReadPlan(ctx context.Context, registry oci.Registry, verifier Verifier, rollout string, plan int64) (v1alpha1.RolloutPlan, error) {
	name := v1alpha1.RolloutRepository(rollout)
	repo, err := registry.Repository(name)
	if err != nil {
		return v1alpha1.RolloutPlan{}, err
	}
	found, _, err := fetch(ctx, repo, verifier, name, v1alpha1.PlanTag(plan), oci.FetchPlan)
	return found, err
}

func fetch[T any](ctx context.Context, repo oci.Repository, verifier Verifier, name, tag string,
	read func(context.Context, oci.Repository, oci.Verified) (T, error),
) (document T, desc ocispec.Descriptor, err error) {
	if desc, err = repo.Resolve(ctx, tag); err != nil {
		return document, desc, err
	}
	verified, err := verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return document, desc, err
	}
	document, err = read(ctx, repo, verified)
	return document, desc, err
}

// PushPlan stores a plan, signed. Nothing happens by it: only its gate lets clusters in.
func PushPlan(ctx context.Context, registry oci.Registry, signer Signer, plan v1alpha1.RolloutPlan) error {
	plan.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutPlan}
	data, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	repo, err := registry.Repository(v1alpha1.RolloutRepository(plan.Name))
	if err != nil {
		return err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypePlan, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypePlan, Data: data}}}
	desc, err := pushSigned(ctx, repo, signer, artifact)
	if err != nil {
		return fmt.Errorf("plan %d of rollout %s: %w", plan.Plan, plan.Name, err)
	}
	for _, tag := range []string{v1alpha1.PlanTag(plan.Plan), v1alpha1.TagPlan} {
		if err := repo.Tag(ctx, desc, tag); err != nil {
			return fmt.Errorf("plan %d of rollout %s: %w", plan.Plan, plan.Name, err)
		}
	}
	return nil
}

// pushSigned stores a manifest that nothing points at yet, and signs it: whoever finds it by a tag finds it signed.
func pushSigned(ctx context.Context, repo oci.Repository, signer Signer, artifact oci.Artifact) (ocispec.Descriptor, error) {
	desc, _, err := oci.Push(ctx, repo, artifact)
	if err != nil {
		return desc, err
	}
	_, err = signer.Sign(ctx, repo, desc)
	return desc, err
}

// pushGate stores the gate that comes after the state's, and points the tag at it that agents look at.
func pushGate(ctx context.Context, registry oci.Registry, signer Signer, state State, gate v1alpha1.RolloutGate, now time.Time, validity time.Duration) (v1alpha1.RolloutGate, error) {
	gate.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate}
	gate.Sequence, gate.Parent = nextSequence(state), state.GateDesc.Digest.String()
	gate.IssuedAt = metav1.NewTime(now.UTC().Truncate(time.Second))
	gate.ExpiresAt = metav1.NewTime(gate.IssuedAt.Add(validity))
	data, err := json.Marshal(gate)
	if err != nil {
		return gate, err
	}
	repo, err := registry.Repository(v1alpha1.RolloutRepository(gate.Name))
	if err != nil {
		return gate, err
	}
	tag := v1alpha1.GateTag(gate.Sequence)
	if err := untaken(ctx, repo, tag); err != nil {
		return gate, err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}}}
	desc, err := pushSigned(ctx, repo, signer, artifact)
	if err != nil {
		return gate, err
	}
	// Registries have no compare-and-swap. Two that are here at the same moment both see which one's tag stayed.
	if err := untaken(ctx, repo, tag); err != nil {
		return gate, err
	}
	if err := repo.Push(ctx, desc, artifact.Manifest().Data, tag); err != nil {
		return gate, err
	}
	if current, err := repo.Resolve(ctx, tag); err != nil || current.Digest != desc.Digest {
		return gate, errors.Join(err, ErrConcurrent)
	}
	if current, err := repo.Resolve(ctx, v1alpha1.TagGate); err == nil && state.Gate != nil && current.Digest != state.GateDesc.Digest {
		return gate, ErrConcurrent
	}
	if err := repo.Push(ctx, desc, artifact.Manifest().Data, v1alpha1.TagGate); err != nil {
		return gate, err
	}
	forget(ctx, repo, gate.Sequence-keptGates)
	return gate, nil
}

// finish takes up gates that come after the current one: a stepper that was killed wrote it and did not point at it, or
// somebody put an older one back.
func finish(ctx context.Context, registry oci.Registry, verifier Verifier, state *State) error {
	for {
		next, err := following(ctx, registry, verifier, state)
		if err != nil || !next {
			return err
		}
	}
}

// following takes up the gate after the current one, if there is one.
func following(ctx context.Context, registry oci.Registry, verifier Verifier, state *State) (found bool, err error) {
	name := v1alpha1.RolloutRepository(state.Name)
	repo, err := registry.Repository(name)
	if err != nil {
		return false, err
	}
	gate, desc, err := fetch(ctx, repo, verifier, name, v1alpha1.GateTag(nextSequence(*state)), oci.FetchGate)
	if errors.Is(err, oci.ErrNotFound) {
		return false, nil
	}
	if err != nil || gate.Sequence != nextSequence(*state) || gate.Parent != state.GateDesc.Digest.String() {
		return false, errors.Join(ErrConcurrent, err)
	}
	if err := repo.Tag(ctx, desc, v1alpha1.TagGate); err != nil {
		return false, err
	}
	state.Gate, state.GateDesc = &gate, desc
	return true, nil
}

func nextSequence(state State) int64 {
	if state.Gate == nil {
		return 1
	}
	return state.Gate.Sequence + 1
}

// untaken makes sure that nobody wrote a gate with that sequence.
func untaken(ctx context.Context, repo oci.Repository, tag string) error {
	_, err := repo.Resolve(ctx, tag)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", tag, ErrConcurrent)
	case errors.Is(err, oci.ErrNotFound):
		return nil
	}
	return err
}

// forget removes an old gate with its signature. Where the registry refuses, it stays: it opens nothing.
func forget(ctx context.Context, repo oci.Repository, sequence int64) {
	if sequence < 1 {
		return
	}
	desc, err := repo.Resolve(ctx, v1alpha1.GateTag(sequence))
	if err != nil {
		return
	}
	if signature, err := repo.Resolve(ctx, oci.SignatureTag(desc.Digest)); err == nil {
		_ = repo.Delete(ctx, signature)
	}
	_ = repo.Delete(ctx, desc)
}
