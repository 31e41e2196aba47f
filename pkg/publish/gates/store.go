package gates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	// Refused is what was found and counts for nothing.
	Refused []Refused
	// lost: what stands under the number after the gate's counts for nothing. It may have been a gate once.
	lost bool
}

// Active reports whether the newest plan is neither completed nor aborted.
func (s *State) Active() bool {
	return s.Plan != nil && (s.Gate == nil || s.Gate.Plan != s.Plan.Plan || !s.Gate.Phase.Final())
}

// Read reads a rollout's newest plan and gate. One that nobody planned has neither.
func Read(ctx context.Context, registry oci.Registry, verifier Verifier, rollout string) (State, error) {
	shelf, err := openShelf(registry, verifier, rollout)
	if err != nil {
		return State{Name: rollout}, err
	}
	return readState(ctx, shelf)
}

func readState(ctx context.Context, s *shelf) (State, error) {
	state := State{Name: s.rollout}
	plan, err := current(ctx, s, planKind)
	if err != nil {
		return state, fmt.Errorf("plan of rollout %s: %w", s.rollout, err)
	}
	if state.Refused = s.refused; plan == nil {
		return state, nil
	}
	state.Plan, state.PlanDesc = &plan.content, plan.desc
	gate, err := current(ctx, s, gateKind)
	if err != nil {
		return state, fmt.Errorf("gate of rollout %s: %w", s.rollout, err)
	}
	state.setGate(gate)
	state.Refused = s.refused
	return state, nil
}

func (s *State) setGate(gate *document[v1alpha1.RolloutGate]) {
	if gate != nil {
		s.Gate, s.GateDesc = &gate.content, gate.desc
	}
}

// ReadPlan reads an earlier plan.
func ReadPlan(ctx context.Context, registry oci.Registry, verifier Verifier, rollout string, plan int64) (v1alpha1.RolloutPlan, error) {
	shelf, err := openShelf(registry, verifier, rollout)
	if err != nil {
		return v1alpha1.RolloutPlan{}, err
	}
	found, err := get(ctx, shelf, planKind, v1alpha1.PlanTag(plan))
	if err != nil {
		return v1alpha1.RolloutPlan{}, err
	}
	return found.content, nil
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
func pushGate(ctx context.Context, repo *shelf, signer Signer, state State, gate v1alpha1.RolloutGate, now time.Time, validity time.Duration) (v1alpha1.RolloutGate, error) {
	gate.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate}
	gate.Sequence, gate.Parent = nextSequence(state), state.GateDesc.Digest.String()
	gate.IssuedAt = metav1.NewTime(now.UTC().Truncate(time.Second))
	gate.ExpiresAt = metav1.NewTime(gate.IssuedAt.Add(validity))
	data, err := json.Marshal(gate)
	if err != nil {
		return gate, err
	}
	tag := v1alpha1.GateTag(gate.Sequence)
	if err := untaken(ctx, repo, tag); err != nil {
		return gate, err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}}}
	desc, err := pushSigned(ctx, repo.Repository, signer, artifact)
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
	forget(ctx, repo.Repository, gate.Sequence-keptGates)
	return gate, nil
}

// finish takes up gates that come after the current one: a stepper that was killed wrote it and did not point at it, or
// somebody put an older one, or one that counts for nothing, in its place.
func finish(ctx context.Context, s *shelf, state *State) error {
	var known *document[v1alpha1.RolloutGate]
	if state.Gate != nil {
		known = &document[v1alpha1.RolloutGate]{*state.Gate, state.GateDesc}
	}
	newest, err := newer(ctx, s, gateKind, known)
	if err != nil {
		return err
	}
	if newest != known || newest != nil && len(s.refused) > 0 {
		state.setGate(newest)
		if err := s.point(ctx, newest.desc, v1alpha1.TagGate, v1alpha1.GateTag(newest.content.Sequence)); err != nil {
			return err
		}
	}
	if len(s.refused) > 0 {
		if err := s.point(ctx, state.PlanDesc, v1alpha1.TagPlan, v1alpha1.PlanTag(state.Plan.Plan)); err != nil {
			return err
		}
	}
	state.Refused = s.refused
	state.lost = slices.ContainsFunc(s.refused, func(r Refused) bool { return r.Tag == v1alpha1.GateTag(nextSequence(*state)) })
	return nil
}

func nextSequence(state State) int64 {
	if state.Gate == nil {
		return 1
	}
	return state.Gate.Sequence + 1
}

// untaken makes sure that nobody wrote a gate with that sequence. What counts for nothing takes no number.
func untaken(ctx context.Context, s *shelf, tag string) error {
	_, err := get(ctx, s, gateKind, tag)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", tag, ErrConcurrent)
	case errors.Is(err, oci.ErrNotFound), errors.As(err, new(*refusedError)):
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
