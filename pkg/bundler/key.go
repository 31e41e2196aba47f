package bundler

import (
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
const keyVersion = "1"

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
func Key(found Found, variant Variant) (string, error) {
	files, err := inputs(found, variant)
	if err != nil {
		return "", found.fail(err)
	}
	spec := found.Bundle.Spec
	if spec.Helm == nil {
		variant.HelmValues, variant.Namespace = nil, ""
	}
	if spec.Kustomize == nil {
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
	}{
		append([]string{keyVersion}, rendererVersions()...), found.Bundle.Metadata.Name, found.Bundle.Metadata.Labels,
		found.Source, spec.Helm, spec.Kustomize, spec.Manifests, variant, sums,
	})
	if err != nil {
		return "", found.fail(fmt.Errorf("values: %w", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// inputs are the files that rendering may read.
func inputs(found Found, variant Variant) (map[string][]byte, error) {
	spec := found.Bundle.Spec
	switch {
	case spec.Helm != nil:
		chart, err := found.folder().Below(spec.Helm.Chart)
		if err != nil {
			return nil, err
		}
		files, err := chart.Files()
		maps.DeleteFunc(files, func(name string, _ []byte) bool { return render.Describes(name) })
		return files, err
	case spec.Kustomize != nil:
		folder, err := found.kustomization(variant)
		if err != nil {
			return nil, err
		}
		return render.KustomizeInputs(folder)
	}
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
