// Package bundler turns folders of a source into bundles: it finds them, checks what their pinnace.yaml says and builds
// the bytes that a registry keeps.
//
// [Discover] lists the bundles of a checked-out source. [Build] makes one [Variant] of a bundle: manifests that agents
// apply, or a Helm chart that they install. The commit stands nowhere in what it makes, so that a commit which does not
// touch a bundle changes nothing; [Key] tells without rendering whether anything did.
package bundler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/fleetyaml"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

// ManifestsFile is the file in a content layer that holds all objects as one YAML stream.
const ManifestsFile = "manifests.yaml"

// Found is a bundle in a source.
type Found struct {
	// Bundle is what its pinnace.yaml says, made complete: name, the source's targets, one of helm, kustomize and
	// manifests, and the values files merged into spec.helm.values.
	Bundle v1alpha1.Bundle
	// Dir is the bundle's folder, Root the source's; both are absolute.
	Dir, Root string
	Source    v1alpha1.SourceIdentity
	// Commit is the source's, for records only.
	Commit string
	// Document places errors in pinnace.yaml; its zero value when there is none.
	Document document.Document
	// Warnings are what is otherwise than its author may expect, each with file and line.
	Warnings []fleetyaml.Finding

	options Options
	charts  charts
	// allowed are the remote bases that the source permits.
	allowed []string
	// own are the images that the bundle itself asks for, found once for all variants.
	own *ownImages
}

func (f Found) folder() render.Folder { return render.Folder{Root: f.Root, Path: f.Source.Path} }

// fail names the bundle and, where there is one, its file.
func (f Found) fail(err error) error {
	return fmt.Errorf("source %q: bundle %q: %w", f.Source.Name, f.Bundle.Metadata.Name, err)
}

// Method is how agents bring the bundle to a cluster.
func (f Found) Method() v1alpha1.Method {
	if helm := f.Bundle.Spec.Helm; helm != nil && helm.Install == v1alpha1.InstallRelease {
		return v1alpha1.MethodRelease
	}
	return v1alpha1.MethodApply
}

// Variant is what a cluster's overrides and values make of a bundle. Values are plain: templates are expanded.
type Variant struct {
	// HelmValues are the chart's. A chart that is installed as a release is only tried with them: they reach the
	// cluster in its target, not in the bundle.
	HelmValues v1alpha1.Values `json:"helmValues,omitempty"`
	// Namespace is what the chart sees as the release's; "default" when empty.
	Namespace string `json:"namespace,omitempty"`
	// Kustomize is the folder of the kustomization relative to the bundle's; the bundle's own choice when empty.
	Kustomize string `json:"kustomize,omitempty"`
	// Overlays are laid over plain manifests; the bundle's own choice when nil.
	Overlays []string `json:"overlays,omitempty"`
}

// Built is one variant's bytes.
type Built struct {
	Config         v1alpha1.BundleConfig
	LayerMediaType string
	Layer          []byte
	// Objects are those in the layer, or those that a release makes with the variant's values.
	Objects []*unstructured.Unstructured
}

// Artifact returns the bundle as a registry keeps it.
func (b Built) Artifact() oci.Artifact {
	config, err := json.Marshal(b.Config)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return oci.Artifact{
		Type:   v1alpha1.ArtifactTypeBundle,
		Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: config},
		Layers: []oci.Blob{{MediaType: b.LayerMediaType, Data: b.Layer}},
	}
}

// Build renders a variant and packs it. The same content gives the same bytes on every machine.
func Build(ctx context.Context, found Found, variant Variant) (Built, error) {
	if err := ctx.Err(); err != nil {
		return Built{}, err
	}
	built := Built{Config: v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
		Name:     found.Bundle.Metadata.Name,
		Labels:   found.Bundle.Metadata.Labels,
		Method:   found.Method(),
		Source:   found.Source,
	}}
	var err error
	if built.Config.Method == v1alpha1.MethodRelease {
		err = buildRelease(ctx, found, variant, &built)
	} else {
		err = buildManifests(ctx, found, variant, &built)
	}
	if err == nil {
		built.Config.Images, err = found.completeImages(ctx, built.Config.Images)
	}
	if err != nil {
		return Built{}, found.fail(err)
	}
	return built, nil
}

func buildManifests(ctx context.Context, found Found, variant Variant, built *Built) error {
	objects, err := renderObjects(ctx, found, variant, built)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return errors.New("renders to no object at all; add one, or skip the bundle where it is not wanted")
	}
	plain, files, err := secure(found.folder(), objects)
	if err != nil {
		return err
	}
	if files[ManifestsFile], err = plain.Marshal(); err != nil {
		return err
	}
	built.LayerMediaType = v1alpha1.MediaTypeBundleContent
	if built.Layer, err = archive.Pack("", files, archive.Limits{}); err != nil {
		return err
	}
	built.Objects = objects.Unstructured()
	built.Config.Objects = len(objects)
	built.Config.Images, err = objects.Images(found.imageRules())
	return err
}

func renderObjects(ctx context.Context, found Found, variant Variant, built *Built) (render.Objects, error) {
	spec := found.Bundle.Spec
	var rendered render.Objects
	if spec.Helm != nil {
		chart, from, err := found.openChart(ctx)
		if err != nil {
			return nil, err
		}
		built.Config.Chart = &from
		if rendered, err = render.Template(chart, found.release(variant, variant.HelmValues)); err != nil || !found.kustomized(variant) {
			return rendered, err
		}
	}
	if found.kustomized(variant) {
		folder, err := found.kustomization(variant)
		if err != nil {
			return nil, err
		}
		bases, err := found.remoteBases(ctx, folder)
		if err != nil {
			return nil, err
		}
		return render.Kustomize(folder, render.KustomizeOptions{Rendered: rendered, Bases: bases})
	}
	return render.Manifests(found.folder(), found.manifests(variant))
}

// kustomized reports whether the variant is a kustomization, maybe of what a chart renders.
func (f Found) kustomized(variant Variant) bool {
	return f.Bundle.Spec.Kustomize != nil || f.Bundle.Spec.Helm != nil && variant.Kustomize != ""
}

func (f Found) manifests(variant Variant) v1alpha1.Manifests {
	manifests := *f.Bundle.Spec.Manifests
	if variant.Overlays != nil {
		manifests.Overlays = variant.Overlays
	}
	return manifests
}

func (f Found) kustomization(variant Variant) (render.Folder, error) {
	name := variant.Kustomize
	if name == "" {
		name = f.Bundle.Spec.Kustomize.Path
	}
	return f.folder().Below(name)
}

func (f Found) release(variant Variant, values v1alpha1.Values) render.Release {
	namespace := variant.Namespace
	if namespace == "" {
		namespace = "default"
	}
	helm := f.Bundle.Spec.Helm
	return render.Release{
		Name: helm.ReleaseName, Namespace: namespace, Values: values,
		SkipCRDs: helm.SkipCRDs, DisableHooks: helm.DisableHooks,
	}
}

func buildRelease(ctx context.Context, found Found, variant Variant, built *Built) error {
	chart, from, err := found.openChart(ctx)
	if err != nil {
		return err
	}
	built.Config.Chart = &from
	built.LayerMediaType = v1alpha1.MediaTypeHelmChart
	if built.Layer, err = render.Package(chart); err != nil {
		return err
	}
	objects, err := render.Try(chart, found.release(variant, variant.HelmValues))
	// Values that only the cluster knows may be what is missing.
	if err != nil && len(found.Bundle.Spec.Helm.ValuesFrom) == 0 {
		return err
	}
	built.Objects = objects.Unstructured()
	// Not from the variant's values: all clusters share the artifact, which lists what the bundle itself asks for.
	built.Config.Images, err = found.ownImages(chart)
	return err
}
