// Package mirrortest publishes made-up fleets, for tests and measurements of mirroring: clusters, bundles and images
// with layers that some of them share. The same options make the same bytes.
package mirrortest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Sign signs a manifest; signing.Signer does.
type Sign func(ctx context.Context, repo oci.Repository, desc ocispec.Descriptor) (created bool, err error)

// Fleet is what is made.
type Fleet struct {
	Clusters int
	Bundles  int
	// BundleBytes is the content of each bundle.
	BundleBytes int
	// Images are container images of two platforms each, in ImageHost; bundle n names image n modulo Images.
	Images    int
	ImageHost string
	// LayerBytes is each layer's. Each platform has Layers of its own, and shares one with every fourth image.
	Layers, LayerBytes int
	// Revision changes the content of the first Changed bundles.
	Revision, Changed int
	// Rollout is one that every target announces; none when empty.
	Rollout string
	// Now is when targets are issued.
	Now time.Time
}

// Random returns n bytes that depend on the seed only.
func Random(seed string, n int) []byte {
	sum := digest.FromString(seed).Encoded()
	var key [32]byte
	copy(key[:], sum)
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(out) // never fails
	return out
}

// Cluster is a cluster's name.
func Cluster(i int) string { return fmt.Sprintf("site-%02d", i) }

// Image is the reference of an image.
func (f Fleet) Image(i int) string { return fmt.Sprintf("%s/apps/app-%02d:v1", f.ImageHost, i) }

// PushImages pushes the images to their registry.
func (f Fleet) PushImages(ctx context.Context, registry oci.Registry, sign Sign) ([]digest.Digest, error) {
	var digests []digest.Digest
	for i := range f.Images {
		repo, err := registry.Repository(fmt.Sprintf("apps/app-%02d", i))
		if err != nil {
			return nil, err
		}
		desc, err := f.pushImage(ctx, repo, i)
		if err == nil && sign != nil {
			_, err = sign(ctx, repo, desc)
		}
		if err != nil {
			return nil, err
		}
		digests = append(digests, desc.Digest)
	}
	return digests, nil
}

func (f Fleet) pushImage(ctx context.Context, repo oci.Repository, i int) (ocispec.Descriptor, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		var layers []oci.Blob
		for l := range f.Layers {
			layers = append(layers, oci.Blob{
				MediaType: ocispec.MediaTypeImageLayerGzip, Data: Random(fmt.Sprintf("%s image %d layer %d", arch, i, l), f.LayerBytes),
			})
		}
		layers = append(layers, oci.Blob{
			MediaType: ocispec.MediaTypeImageLayerGzip, Data: Random(fmt.Sprintf("%s base %d", arch, i%4), f.LayerBytes),
		})
		desc, _, err := oci.Push(ctx, repo, oci.Artifact{
			Config: oci.Blob{MediaType: ocispec.MediaTypeImageConfig, Data: fmt.Appendf(nil, `{"architecture":%q,"os":"linux","n":%d}`, arch, i)},
			Layers: layers,
		})
		if err != nil {
			return desc, err
		}
		desc.ArtifactType = ""
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, desc)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: data}
	return blob.Descriptor(), repo.Push(ctx, blob.Descriptor(), data, "v1")
}

// Publish pushes bundles, targets and the fleet index, signed, and moves the current tags.
func (f Fleet) Publish(ctx context.Context, registry oci.Registry, images []digest.Digest, sign Sign) error {
	bundles := make([]v1alpha1.TargetBundle, f.Bundles)
	for i := range bundles {
		var err error
		if bundles[i], err = f.pushBundle(ctx, registry, i, images, sign); err != nil {
			return err
		}
	}
	index := v1alpha1.FleetIndex{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindFleetIndex}, Fleet: "acme",
		Publication: int64(f.Revision) + 1, IssuedAt: metav1.NewTime(f.Now), Sources: []v1alpha1.IndexSource{}, Bundles: []v1alpha1.IndexBundle{},
	}
	for i := range f.Clusters {
		entry, err := f.pushTarget(ctx, registry, i, bundles, sign)
		if err != nil {
			return err
		}
		index.Clusters = append(index.Clusters, entry)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	_, err = push(ctx, registry, v1alpha1.RepositoryFleet, oci.Artifact{
		Type: v1alpha1.ArtifactTypeFleet, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeFleetIndex, Data: data}},
	}, sign, fmt.Sprintf("pub-%d", index.Publication), v1alpha1.TagCurrent)
	return err
}

func (f Fleet) pushBundle(ctx context.Context, registry oci.Registry, i int, images []digest.Digest, sign Sign) (v1alpha1.TargetBundle, error) {
	name := fmt.Sprintf("bundle-%03d", i)
	source := v1alpha1.SourceIdentity{Name: "platform"}
	config := v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
		Name:     name, Method: v1alpha1.MethodApply, Source: source,
	}
	if len(images) > 0 {
		n := i % len(images)
		config.Images = []v1alpha1.Image{{Reference: f.Image(n), Digest: images[n].String(), From: []string{"apps/v1 Deployment web: spec.template.spec.containers[0]"}}}
	}
	data, err := json.Marshal(config)
	if err != nil {
		return v1alpha1.TargetBundle{}, err
	}
	seed := name
	if i < f.Changed {
		seed += fmt.Sprintf(" revision %d", f.Revision)
	}
	content := oci.Blob{MediaType: v1alpha1.MediaTypeBundleContent, Data: Random(seed, f.BundleBytes)}
	repository := v1alpha1.BundleRepository(name)
	desc, err := push(ctx, registry, repository, oci.Artifact{
		Type: v1alpha1.ArtifactTypeBundle, Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: data}, Layers: []oci.Blob{content},
	}, sign, "sha-"+content.Descriptor().Digest.Encoded()[:12])
	return v1alpha1.TargetBundle{
		Name: name, Repository: repository, Digest: desc.Digest.String(), LayerDigest: content.Descriptor().Digest.String(),
		Method: v1alpha1.MethodApply, Namespace: "default", Source: source,
	}, err
}

// pushTarget gives every cluster the bundles whose number shares its remainder by two, so that sites differ.
func (f Fleet) pushTarget(ctx context.Context, registry oci.Registry, i int, bundles []v1alpha1.TargetBundle, sign Sign) (v1alpha1.IndexCluster, error) {
	name := Cluster(i)
	target := v1alpha1.Target{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget}, Fleet: "acme", Cluster: name,
		Generation: int64(f.Revision) + 1, IssuedAt: metav1.NewTime(f.Now), ExpiresAt: metav1.NewTime(f.Now.Add(720 * time.Hour)),
		Bundles: []v1alpha1.TargetBundle{},
	}
	if f.Rollout != "" {
		target.Rollouts = []v1alpha1.TargetRollout{{Name: f.Rollout, Plan: 1}}
	}
	for n, bundle := range bundles {
		if f.Clusters == 1 || n%2 == i%2 {
			target.Bundles = append(target.Bundles, bundle)
		}
	}
	data, err := json.Marshal(target)
	if err != nil {
		return v1alpha1.IndexCluster{}, err
	}
	desc, err := push(ctx, registry, v1alpha1.TargetRepository(name), oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: data}},
	}, sign, fmt.Sprintf("gen-%d", target.Generation), v1alpha1.TagCurrent)
	return v1alpha1.IndexCluster{
		Name: name, Labels: map[string]string{"site": name}, Generation: target.Generation, Digest: desc.Digest.String(), ExpiresAt: target.ExpiresAt,
	}, err
}

func push(ctx context.Context, registry oci.Registry, name string, artifact oci.Artifact, sign Sign, tags ...string) (ocispec.Descriptor, error) {
	repo, err := registry.Repository(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, _, err := oci.Push(ctx, repo, artifact, tags...)
	if err == nil && sign != nil {
		_, err = sign(ctx, repo, desc)
	}
	return desc, err
}
