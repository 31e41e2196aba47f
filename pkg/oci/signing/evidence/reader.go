package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Reader finds the proofs of one manifest, place by place, so that who has enough asks for no more.
type Reader struct {
	repo     oci.Repository
	subject  ocispec.Descriptor
	wanted   func(predicate string) bool
	evidence []oci.Attached
	found    int
}

// NewReader reads the proofs of a manifest in repo. Attestations whose type is known beforehand and not wanted are left
// unread; nil wants all.
func NewReader(repo oci.Repository, subject ocispec.Descriptor, wanted func(predicate string) bool) *Reader {
	return &Reader{repo: repo, subject: subject, wanted: wanted}
}

// Evidence returns the manifests that were read: who copies them along can verify again.
func (r *Reader) Evidence() []oci.Attached { return r.evidence }

// Tagged returns what is under cosign's tag for signatures; none where there is no such tag. One request on a registry.
func (r *Reader) Tagged(ctx context.Context) ([]*Proof, error) {
	return r.tagged(ctx, oci.SignatureTag(r.subject.Digest))
}

// TaggedAttestations returns what is under cosign's tag for attestations.
func (r *Reader) TaggedAttestations(ctx context.Context) ([]*Proof, error) {
	return r.tagged(ctx, oci.AttestationTag(r.subject.Digest))
}

func (r *Reader) tagged(ctx context.Context, tag string) ([]*Proof, error) {
	desc, data, err := oci.FetchTagged(ctx, r.repo, tag)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	layers, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s:%s: %w", r.repo, tag, err)
	}
	place := oci.Attached{Descriptor: desc, Tag: tag}
	r.evidence = append(r.evidence, place)
	return r.proofs(FormatTag, place, layers), nil
}

// Referrers returns the signatures and attestations among the manifests that name the subject. One that cannot be read
// is a broken proof among the others.
func (r *Reader) Referrers(ctx context.Context) ([]*Proof, error) {
	list, err := oci.Referrers(ctx, r.repo, r.subject)
	if err != nil {
		return nil, err
	}
	var proofs []*Proof
	for _, desc := range list {
		predicate := desc.Annotations[AnnotationPredicate]
		switch {
		case !mayProve(desc.ArtifactType):
			continue // SBOMs and whatever else names the subject
		case predicate != "" && r.wanted != nil && !r.wanted(predicate):
			continue
		case len(proofs) >= MaxProofs:
			return proofs, nil
		}
		found, err := r.referrer(ctx, desc)
		if err != nil {
			return proofs, err
		}
		proofs = append(proofs, found...)
	}
	return proofs, nil
}

// mayProve says whether a referrer of that type may be a signature or an attestation. Indexes that clients keep for
// registries without the referrers API may hold the config's type, which for a bundle of stock cosign says nothing.
func mayProve(artifactType string) bool {
	switch artifactType {
	case "", ocispec.MediaTypeEmptyJSON, ocispec.MediaTypeImageConfig, ArtifactTypeSignature, artifactTypeAttest:
		return true
	}
	return strings.HasPrefix(artifactType, bundlePrefix)
}

func (r *Reader) referrer(ctx context.Context, desc ocispec.Descriptor) ([]*Proof, error) {
	place := oci.Attached{Descriptor: desc}
	data, err := oci.ReadAll(ctx, r.repo, desc, oci.MaxManifest)
	var layers []ocispec.Descriptor
	if err == nil {
		layers, err = parseManifest(data)
	}
	if permanent(err) {
		broken := &Proof{Format: FormatReferrer, Manifest: place, subject: r.subject.Digest, content: &signature{}, broken: err}
		return []*Proof{broken}, nil
	}
	if err != nil {
		return nil, err
	}
	proofs := r.proofs(FormatReferrer, place, layers)
	if len(proofs) > 0 {
		r.evidence = append(r.evidence, place)
	}
	return proofs, nil
}

// proofs turns the layers of cosign's own manifests into proofs.
func (r *Reader) proofs(format Format, place oci.Attached, layers []ocispec.Descriptor) []*Proof {
	var proofs []*Proof
	for _, layer := range layers {
		if r.found++; r.found > MaxProofs {
			break
		}
		proof := &Proof{Format: format, Manifest: place, subject: r.subject.Digest}
		switch layer.MediaType {
		case mediaTypeSimpleSigning:
			proof.content = &signature{repo: r.repo, layer: layer, subject: r.subject.Digest}
		case mediaTypeEnvelope:
			proof.content = &envelope{signature: signature{repo: r.repo, layer: layer}}
		default:
			if format == FormatTag || !strings.HasPrefix(layer.MediaType, bundlePrefix) {
				continue
			}
			proof.Format, proof.content = FormatBundle, &bundled{repo: r.repo, layer: layer}
		}
		proofs = append(proofs, proof)
	}
	return proofs
}

// parseManifest returns the layers of a manifest of signatures. Docker's media type is taken too: cosign writes what the
// image has.
func parseManifest(data []byte) ([]ocispec.Descriptor, error) {
	var manifest struct {
		Layers []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, fmt.Errorf("%w: %w", oci.ErrDamaged, err)
	}
	if len(manifest.Layers) > MaxProofs {
		return nil, fmt.Errorf("%w: %d signatures, at most %d are read", oci.ErrTooLarge, len(manifest.Layers), MaxProofs)
	}
	return manifest.Layers, nil
}
