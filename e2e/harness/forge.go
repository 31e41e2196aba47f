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
