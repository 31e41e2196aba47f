package bundler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/render"
)

// keyVersion changes when the same inputs are packed differently.
const keyVersion = "2"

// renderers are the modules whose versions change what is rendered.
var renderers = []string{"helm.sh/helm/v3", "sigs.k8s.io/kustomize/api", "sigs.k8s.io/yaml", "k8s.io/api"}

// rendererVersions also covers the compressor, which comes with Go.
var rendererVersions = sync.OnceValue(func() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	versions := []string{info.GoVersion}
	for _, module := range info.Deps {
		if slices.Contains(renderers, module.Path) {
			versions = append(versions, module.Path+"@"+module.Version)
		}
	}
	return versions
})

// Key is a hash of everything that Build's result depends on: the bundle's files, what its pinnace.yaml says about
// rendering, the variant and the renderers' versions. Equal keys need no second Build.
func Key(ctx context.Context, found Found, variant Variant) (string, error) {
	files, fetched, err := inputs(ctx, found, variant)
	if err != nil {
		return "", found.fail(err)
	}
	spec := found.Bundle.Spec
	if spec.Helm == nil {
		variant.HelmValues, variant.Namespace = nil, ""
	}
	if spec.Kustomize == nil && spec.Helm == nil {
		variant.Kustomize = ""
	}
	// Overlays count by the files that they make.
	variant.Overlays = nil
	sums := map[string]string{}
	for name, content := range files {
		sum := sha256.Sum256(content)
		sums[name] = hex.EncodeToString(sum[:])
	}
	data, err := json.Marshal(struct {
		Version   []string
		Name      string
		Labels    map[string]string
		Source    v1alpha1.SourceIdentity
		Helm      *v1alpha1.Helm
		Kustomize *v1alpha1.Kustomize
		Manifests *v1alpha1.Manifests
		Variant   Variant
		Files     map[string]string
		Fetched   []string       `json:",omitempty"`
		Images    *imageSettings `json:",omitempty"`
	}{
		append([]string{keyVersion}, rendererVersions()...), found.Bundle.Metadata.Name, found.Bundle.Metadata.Labels,
		found.Source, spec.Helm, spec.Kustomize, spec.Manifests, variant, sums, fetched, found.imageSettings(),
	})
	if err != nil {
		return "", found.fail(fmt.Errorf("values: %w", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// inputs are the files that rendering may read, and the digests of what it fetches.
func inputs(ctx context.Context, found Found, variant Variant) (files map[string][]byte, fetched []string, err error) {
	if found.Bundle.Spec.Helm == nil && !found.kustomized(variant) {
		files, err = manifestInputs(found, variant)
		return files, nil, err
	}
	files = map[string][]byte{}
	if found.Bundle.Spec.Helm != nil {
		if files, fetched, err = found.chartInputs(); err != nil {
			return nil, nil, err
		}
	}
	if !found.kustomized(variant) {
		return files, fetched, nil
	}
	folder, err := found.kustomization(variant)
	if err != nil {
		return nil, nil, err
	}
	kustomization, err := render.KustomizeInputs(folder)
	if err != nil {
		return nil, nil, err
	}
	bases, err := found.resolveBases(ctx, kustomization)
	for _, base := range bases {
		fetched = append(fetched, base.url+" "+base.commit)
	}
	for name, content := range kustomization {
		if found.Bundle.Spec.Helm != nil {
			name = "kustomize:" + name // a chart's files have names of their own
		}
		files[name] = content
	}
	return files, fetched, err
}

func manifestInputs(found Found, variant Variant) (map[string][]byte, error) {
	files, err := found.folder().Files()
	if err != nil {
		return nil, err
	}
	manifests := found.manifests(variant)
	if files, err = render.Overlaid(files, manifests.Overlays); err != nil {
		return nil, err
	}
	names, err := render.SelectManifests(slices.Sorted(maps.Keys(files)), manifests)
	if err != nil {
		return nil, err
	}
	chosen := map[string][]byte{}
	for _, name := range names {
		chosen[name] = files[name]
	}
	return chosen, nil
}
