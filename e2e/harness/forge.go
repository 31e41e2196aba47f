package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Target reads a cluster's current target, as an attacker would: nothing is verified.
func (f *Fleet) Target(ctx context.Context, cluster string) (v1alpha1.Target, ocispec.Descriptor, error) {
	var target v1alpha1.Target
	repo, err := f.Repository(v1alpha1.TargetRepository(cluster))
	if err != nil {
		return target, ocispec.Descriptor{}, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return target, desc, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return target, desc, err
	}
	data, err := oci.ReadAll(ctx, repo, manifest.Layers[0], oci.MaxTarget)
	if err != nil {
		return target, desc, err
	}
	return target, desc, json.Unmarshal(data, &target)
}

// PushTarget signs a target with any key, or not at all with the zero one, and makes it the current one of a cluster,
// past every check of a publish.
func (f *Fleet) PushTarget(ctx context.Context, cluster string, target v1alpha1.Target, key Key) error {
	data, err := json.Marshal(target)
	if err != nil {
		return err
	}
	repo, err := f.Repository(v1alpha1.TargetRepository(cluster))
	if err != nil {
		return err
	}
	desc, _, err := oci.Push(ctx, repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: data}},
	})
	if err != nil {
		return err
	}
	if key == (Key{}) {
		return f.SetCurrent(ctx, cluster, desc)
	}
	signer, err := f.signer(key)
	if err != nil {
		return err
	}
	if _, err := signer.Sign(ctx, repo, desc); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return f.SetCurrent(ctx, cluster, desc)
}

// signer loads a key once: to derive it from its password takes as long as a hundred signatures.
func (f *Fleet) signer(key Key) (*signing.Signer, error) {
	if signer, ok := f.signers[key.Private]; ok {
		return signer, nil
	}
	private, err := os.ReadFile(key.Private)
	if err != nil {
		return nil, err
	}
	signer, err := signing.LoadSigner(private, []byte(Password))
	if err != nil {
		return nil, err
	}
	if f.signers == nil {
		f.signers = map[string]*signing.Signer{}
	}
	f.signers[key.Private] = signer
	return signer, nil
}

// SetCurrent points a cluster's current tag at any target.
func (f *Fleet) SetCurrent(ctx context.Context, cluster string, desc ocispec.Descriptor) error {
	repo, err := f.Repository(v1alpha1.TargetRepository(cluster))
	if err != nil {
		return err
	}
	return repo.Tag(ctx, desc, v1alpha1.TagCurrent)
}

// PushGate signs a gate with the fleet's key and points its rollout at it, past every rule.
func (f *Fleet) PushGate(ctx context.Context, gate v1alpha1.RolloutGate) (ocispec.Descriptor, error) {
	gate.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate}
	data, err := json.Marshal(gate)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	repo, err := f.Repository(v1alpha1.RolloutRepository(gate.Name))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, _, err := oci.Push(ctx, repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}},
	})
	if err != nil {
		return desc, err
	}
	signer, err := f.signer(f.Key)
	if err != nil {
		return desc, err
	}
	if _, err := signer.Sign(ctx, repo, desc); err != nil {
		return desc, fmt.Errorf("sign: %w", err)
	}
	return desc, repo.Tag(ctx, desc, v1alpha1.TagGate)
}

// Gate reads a rollout's current gate, as an attacker would: nothing is verified.
func (f *Fleet) Gate(ctx context.Context, rollout string) (v1alpha1.RolloutGate, ocispec.Descriptor, error) {
	var gate v1alpha1.RolloutGate
	repo, err := f.Repository(v1alpha1.RolloutRepository(rollout))
	if err != nil {
		return gate, ocispec.Descriptor{}, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagGate)
	if err != nil {
		return gate, desc, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return gate, desc, err
	}
	data, err := oci.ReadAll(ctx, repo, manifest.Layers[0], oci.MaxTarget)
	if err != nil {
		return gate, desc, err
	}
	return gate, desc, json.Unmarshal(data, &gate)
}
