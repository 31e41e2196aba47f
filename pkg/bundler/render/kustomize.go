package render

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// KustomizationFiles are the names that Kustomize looks for.
var KustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomizing guards Kustomize's OpenAPI schema, which is global.
var kustomizing sync.Mutex

// RenderedFiles are the names under which a kustomization may list what a chart rendered, among its resources. One that
// lists neither gets the first. The second is Rancher Fleet's.
var RenderedFiles = []string{"rendered-chart.yaml", "fleet-manifests.yaml"}

// KustomizeOptions are what a kustomization uses that is not in its checkout.
type KustomizeOptions struct {
	// Rendered is what a chart made, for the kustomization to change; nil when there is none.
	Rendered Objects
	// Bases are what remote bases make, by their URL as kustomizations name it. Others are refused.
	Bases map[string]Objects
}

// Kustomize builds the kustomization in a folder. It may use files of the whole checkout, but nothing remote beside
// opts.Bases, no plugins and no Helm.
func Kustomize(folder Folder, opts KustomizeOptions) (Objects, error) {
	root, err := os.OpenRoot(folder.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	files, err := newCheckoutFS(root)
	if err != nil {
		return nil, err
	}
	name := ""
	for _, candidate := range KustomizationFiles {
		if files.Exists(path.Join("/", folder.Path, candidate)) {
			name = path.Join(folder.Path, candidate)
			break
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%s: no kustomization.yaml; add one, or change spec.kustomize.path", folder.Path)
	}
	if content, err := readFile(root, name, maxFolderBytes); err == nil && IsComponent(content) {
		return nil, fmt.Errorf("%s: is a component, which changes other kustomizations and is none itself; name it in components of one", name)
	}
	if err := files.add(name, opts); err != nil {
		return nil, err
	}
	options := krusty.MakeDefaultOptions()
	// Files of the whole checkout may be used; checkoutFS is the limit.
	options.LoadRestrictions = types.LoadRestrictionsNone
	kustomizing.Lock()
	defer kustomizing.Unlock()
	built, err := krusty.MakeKustomizer(options).Run(files, path.Join("/", folder.Path))
	// Kustomize may go on after a refused file and fail elsewhere with a worse message.
	if files.refused != nil {
		return nil, files.refused
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var objects []Object
	for _, resource := range built.Resources() {
		data, err := resource.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found, err := flatten(object.Object, name, 0)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return arrange(objects)
}

// IsComponent reports whether a kustomization is a component. What cannot be read is none.
func IsComponent(kustomization []byte) bool {
	var meta struct {
		Kind string `json:"kind"`
	}
	return yaml.Unmarshal(kustomization, &meta) == nil && meta.Kind == types.ComponentKind
}

// checkKustomization refuses everything that makes Kustomize reach out of the checkout. It is called for each
// kustomization before Kustomize acts on it.
func (c *checkoutFS) checkKustomization(file string, data []byte) error {
	var k types.Kustomization
	if err := k.Unmarshal(data); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(k.HelmCharts)+len(k.HelmChartInflationGenerator) > 0 || k.HelmGlobals != nil {
		return fmt.Errorf("%s: helmCharts are not rendered inside of a kustomization; make the chart a bundle with spec.helm", file)
	}
	k.FixKustomization() // bases become resources
	var entries []string
	for _, list := range [][]string{k.Resources, k.Components, k.Crds, k.Configurations} {
		entries = append(entries, list...)
	}
	for _, patch := range k.PatchesStrategicMerge { //nolint:staticcheck // deprecated, but Kustomize still reads it
		if !inline(string(patch)) {
			entries = append(entries, string(patch))
		}
	}
	for _, patch := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // deprecated, but Kustomize still reads it
		entries = append(entries, patch.Path)
	}
	for _, replacement := range k.Replacements {
		entries = append(entries, replacement.Path)
	}
	entries = append(entries, k.OpenAPI["path"])
	var generators []types.GeneratorArgs
	for _, generator := range k.ConfigMapGenerator {
		generators = append(generators, generator.GeneratorArgs)
	}
	for _, generator := range k.SecretGenerator {
		generators = append(generators, generator.GeneratorArgs)
	}
	for _, generator := range generators {
		for _, source := range generator.FileSources {
			entries = append(entries, source[strings.Index(source, "=")+1:])
		}
		entries = append(append(entries, generator.EnvSources...), generator.EnvSource)
	}
	for _, entry := range entries {
		if entry == "" {
			continue
		}
		if remote(entry) {
			return fmt.Errorf("%s: %q is remote; copy it into the repository, so that what is rendered is what was reviewed, "+
				"or allow its repository in remoteBases of the source", file, entry)
		}
		switch err := c.stat(path.Join("/", path.Dir(file), entry)); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s: names %q, which is not there; add it, or remove the entry", file, entry)
		case err != nil:
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return c.checkPlugins(file, slices.Concat(k.Generators, k.Transformers, k.Validators))
}

// checkPlugins holds the configuration of generators, transformers and validators, which names files too, to plain
// files without URLs. A folder of them could be patched after it was checked.
func (c *checkoutFS) checkPlugins(file string, entries []string) error {
	for _, entry := range entries {
		configuration := []byte(entry)
		switch {
		case inline(entry) && remoteStart(entry), !inline(entry) && remote(entry):
			return fmt.Errorf("%s: %q is remote; copy it into the repository", file, entry)
		case !inline(entry):
			name := path.Join("/", path.Dir(file), entry)
			if c.IsDir(name) {
				return fmt.Errorf("%s: %q is a folder; list the files of generators, transformers and validators one by one", file, entry)
			}
			var err error
			if configuration, err = c.ReadFile(name); err != nil {
				// Kustomize says that it is missing.
				continue
			}
		}
		documents := split(configuration)
		for _, document := range documents {
			content, err := decode(document, false)
			if err != nil {
				return fmt.Errorf("%s: %q: %w", file, entry, err)
			}
			if url := findURL(content); url != "" {
				return fmt.Errorf("%s: %q names the remote %q; copy it into the repository", file, entry, url)
			}
		}
	}
	return nil
}

// inline reports whether an entry is content and not a path.
func inline(entry string) bool {
	return strings.Contains(entry, "\n") || strings.HasPrefix(strings.TrimSpace(entry), "{")
}

// remote reports whether Kustomize could take a path for a URL or for a repository to clone. It is stricter than
// Kustomize: a colon, an @ in the first segment, a query and github.com/ are never parts of a local path.
func remote(entry string) bool {
	first, _, _ := strings.Cut(entry, "/")
	return strings.ContainsAny(entry, ":?") || strings.Contains(first, "@") || remoteStart(entry)
}

var remotePrefix = regexp.MustCompile(`(?i)^\s*(https?:|ssh:|file:|git::|github\.com[/:]|[a-z][a-z0-9-]*@)`)

// remoteStart is for content, which Kustomize tries as a path when it cannot read it as content.
func remoteStart(entry string) bool { return remotePrefix.MatchString(entry) }

func findURL(value any) string {
	switch value := value.(type) {
	case string:
		for _, scheme := range []string{"http:", "https:"} {
			if strings.HasPrefix(strings.ToLower(value), scheme) {
				return value
			}
		}
	case []any:
		for _, item := range value {
			if url := findURL(item); url != "" {
				return url
			}
		}
	case map[string]any:
		for _, item := range value {
			if url := findURL(item); url != "" {
				return url
			}
		}
	}
	return ""
}
