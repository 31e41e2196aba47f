package oci_test

import (
	"encoding/json"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// FuzzDocuments reads every document that artifacts carry: none may panic, and what is taken is of its kind.
func FuzzDocuments(f *testing.F) {
	kinds := []string{
		v1alpha1.KindTarget, v1alpha1.KindBundleConfig, v1alpha1.KindFleetIndex, v1alpha1.KindStatusReport,
		v1alpha1.KindRolloutGate, v1alpha1.KindRolloutPlan,
	}
	for i, kind := range kinds {
		head := `{"apiVersion":"` + v1alpha1.APIVersion + `","kind":"` + kind + `"`
		f.Add([]byte(head+`}`), uint8(i))
		f.Add([]byte(head+`,"fleet":"acme","generation":1,"generation":2}`), uint8(i))
		f.Add([]byte(head+`,"bundles":[{"name":"web","release":{"values":{"a":[1,null,{"b":1e400}]}}}]}`), uint8(i))
		f.Add([]byte(head+`,"x":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`}`), uint8(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, which uint8) {
		kind := kinds[int(which)%len(kinds)]
		var into any
		var meta *v1alpha1.TypeMeta
		switch kind {
		case v1alpha1.KindTarget:
			into, meta = of[v1alpha1.Target](func(d *v1alpha1.Target) *v1alpha1.TypeMeta { return &d.TypeMeta })
		case v1alpha1.KindBundleConfig:
			into, meta = of[v1alpha1.BundleConfig](func(d *v1alpha1.BundleConfig) *v1alpha1.TypeMeta { return &d.TypeMeta })
		case v1alpha1.KindFleetIndex:
			into, meta = of[v1alpha1.FleetIndex](func(d *v1alpha1.FleetIndex) *v1alpha1.TypeMeta { return &d.TypeMeta })
		case v1alpha1.KindStatusReport:
			into, meta = of[v1alpha1.StatusReport](func(d *v1alpha1.StatusReport) *v1alpha1.TypeMeta { return &d.TypeMeta })
		case v1alpha1.KindRolloutGate:
			into, meta = of[v1alpha1.RolloutGate](func(d *v1alpha1.RolloutGate) *v1alpha1.TypeMeta { return &d.TypeMeta })
		default:
			into, meta = of[v1alpha1.RolloutPlan](func(d *v1alpha1.RolloutPlan) *v1alpha1.TypeMeta { return &d.TypeMeta })
		}
		if err := oci.DecodeJSON(data, kind, into, meta); err != nil {
			return
		}
		if meta.Kind != kind || meta.APIVersion != v1alpha1.APIVersion {
			t.Errorf("a %s of %s was taken for a %s", meta.Kind, meta.APIVersion, kind)
		}
		if _, err := json.Marshal(into); err != nil {
			t.Errorf("what was taken cannot be written again: %v", err)
		}
	})
}

func of[T any](meta func(*T) *v1alpha1.TypeMeta) (any, *v1alpha1.TypeMeta) {
	document := new(T)
	return document, meta(document)
}

// FuzzManifest reads manifests as a registry may send them, and what they name.
func FuzzManifest(f *testing.F) {
	honest := oci.Artifact{Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: []byte("{}")}}}
	f.Add(honest.Manifest().Data)
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[{"digest":"sha256:x","size":-1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		repo, err := oci.NewMemory().Repository("a")
		if err != nil {
			t.Fatal(err)
		}
		blob := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
		if err := repo.Push(t.Context(), blob.Descriptor(), data); err != nil {
			return
		}
		manifest, raw, err := oci.ReadManifest(t.Context(), repo, blob.Descriptor())
		if err != nil {
			return
		}
		if string(raw) != string(data) || len(manifest.Layers) > oci.MaxLayers {
			t.Errorf("%d layers of %q", len(manifest.Layers), raw)
		}
		for _, layer := range manifest.Layers {
			_, _ = oci.ReadAll(t.Context(), repo, layer, 1<<10) // must not panic, nor allocate what it says
		}
	})
}
