package hostile

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

func reasons(all ...agent.Reason) []agent.Reason { return all }

// evilTarget is a successor whose web is the attacker's, signed by somebody.
func (w *World) evilTarget(signers ...*signing.Signer) ocispec.Descriptor {
	return w.publishDocument(must(json.Marshal(w.next(w.bundle("web", evil)))), signers)
}

// copySignatures gives one manifest the signatures of another.
func (w *World) copySignatures(fromRepo string, from ocispec.Descriptor, toRepo string, to ocispec.Descriptor) {
	src, dst := w.repo(fromRepo), w.repo(toRepo)
	desc := must(src.Resolve(w.ctx, oci.SignatureTag(from.Digest)))
	if err := oci.Copy(w.ctx, src, dst, desc, oci.SignatureTag(to.Digest)); err != nil {
		panic(err)
	}
}

func signatureAttacks() []Attack {
	targets := v1alpha1.TargetRepository(clusterName)
	return []Attack{
		{
			Name: "target that nobody signed", Want: reasons(agent.ReasonSignatureMissing),
			Prepare: func(w *World) { w.evilTarget() },
		},
		{
			Name: "target signed by a stranger", Want: reasons(agent.ReasonKeyNotTrusted),
			Prepare: func(w *World) { w.evilTarget(w.stranger) },
		},
		{
			Name: "target signed by the key of bundles", Want: reasons(agent.ReasonKeyNotTrusted),
			Prepare: func(w *World) { w.evilTarget(w.keys.bundle) },
		},
		{
			Name: "target with another target's signature", Want: reasons(agent.ReasonSignatureMismatch),
			Prepare: func(w *World) {
				other := w.push(targets, oci.Artifact{
					Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: []byte("{}")}},
				}, by(w.release))
				w.copySignatures(targets, other, targets, w.evilTarget())
			},
		},
		{
			Name: "target with the signature of another repository", Want: reasons(agent.ReasonSignatureMismatch),
			Prepare: func(w *World) {
				artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeFleet, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeFleetIndex, Data: []byte("{}")}}}
				other := w.push(v1alpha1.RepositoryFleet, artifact, by(w.release))
				w.copySignatures(v1alpha1.RepositoryFleet, other, targets, w.evilTarget())
			},
		},
		{
			Name: "bundle that nobody signed", Want: reasons(agent.ReasonSignatureMissing),
			Prepare: func(w *World) {
				w.publish(w.next(w.bundleOf("web", nil, map[string][]byte{"a.yaml": []byte(configMap("web", evil))})))
			},
		},
		{
			Name: "bundle signed by the key of targets", Want: reasons(agent.ReasonKeyNotTrusted),
			Prepare: func(w *World) {
				w.publish(w.next(w.bundleOf("web", by(w.release), map[string][]byte{"a.yaml": []byte(configMap("web", evil))})))
			},
		},
		{
			Name: "threshold met twice by one key", Want: reasons(agent.ReasonThresholdNotMet),
			Prepare: func(w *World) {
				two := w.bundleOf("two-web", by(w.keys.bundle), map[string][]byte{"a.yaml": []byte(configMap("web", evil))})
				w.repeatSignatures(v1alpha1.BundleRepository("two-web"), two.Digest, 2)
				w.publish(w.target(generation+1, w.First.Bundles[0], two, w.First.Bundles[1]))
			},
		},
		{
			Name: "one good among ten thousand bad signatures", Want: reasons(agent.ReasonTooLarge),
			Prepare: func(w *World) {
				desc := w.evilTarget(w.stranger)
				w.repeatSignatures(targets, desc.Digest.String(), 10_000)
			},
		},
		{
			Name: "signatures that are not base64", Want: reasons(agent.ReasonKeyNotTrusted, agent.ReasonSignatureMismatch, "SignatureBroken"),
			Prepare: func(w *World) {
				desc := w.evilTarget(w.stranger)
				w.changeSignatures(targets, desc.Digest.String(), func(layers []ocispec.Descriptor) []ocispec.Descriptor {
					layers[0].Annotations = map[string]string{"dev.cosignproject.cosign/signature": "%%%"}
					return layers
				})
			},
		},
		{
			Name: "signature payload of gigabytes", Want: reasons(agent.ReasonTooLarge, agent.ReasonKeyNotTrusted, "SignatureBroken"),
			Prepare: func(w *World) {
				desc := w.evilTarget(w.stranger)
				w.changeSignatures(targets, desc.Digest.String(), func(layers []ocispec.Descriptor) []ocispec.Descriptor {
					layers[0].Size = 8 << 30
					return layers
				})
			},
		},
		{
			Name: "signature that is an index", Want: reasons(agent.ReasonSignatureMissing, agent.ReasonSignatureMismatch, agent.ReasonDigestMismatch, agent.ReasonKeyNotTrusted, "SignatureBroken"),
			Prepare: func(w *World) {
				desc := w.evilTarget()
				index := must(json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}))
				blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: index}
				if err := w.repo(targets).Push(w.ctx, blob.Descriptor(), index, oci.SignatureTag(desc.Digest)); err != nil {
					panic(err)
				}
			},
		},
	}
}

// repeatSignatures lists a manifest's signatures so many times.
func (w *World) repeatSignatures(repository, digest string, times int) {
	w.changeSignatures(repository, digest, func(layers []ocispec.Descriptor) []ocispec.Descriptor {
		var all []ocispec.Descriptor
		for i := range times {
			for _, layer := range layers {
				if times > 2 {
					layer.Annotations = map[string]string{
						"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "bad %d", i)),
					}
				}
				all = append(all, layer)
			}
		}
		return all
	})
}

// changeSignatures replaces the list of signatures of a manifest.
func (w *World) changeSignatures(repository, digest string, change func([]ocispec.Descriptor) []ocispec.Descriptor) {
	repo := w.repo(repository)
	subject := must(repo.Resolve(w.ctx, digest))
	tag := oci.SignatureTag(subject.Digest)
	manifest, _, err := oci.ReadManifest(w.ctx, repo, must(repo.Resolve(w.ctx, tag)))
	if err != nil {
		panic(err)
	}
	manifest.Layers = change(manifest.Layers)
	data := must(json.Marshal(manifest))
	w.lieManifest(repository, tag, ocispec.MediaTypeImageManifest, data)
}
