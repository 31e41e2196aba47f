package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// add puts what is not in the checkout beside the kustomization that name is.
func (c *checkoutFS) add(name string, opts KustomizeOptions) error {
	c.bases = opts.Bases
	if opts.Rendered == nil {
		return nil
	}
	content, err := readFile(c.root, name, maxFolderBytes)
	if err != nil {
		return err
	}
	c.top, c.rendered = name, RenderedFiles[0]
	listed, _, err := resourcesOf(name, content)
	if err != nil {
		return err
	}
	for _, candidate := range RenderedFiles {
		if slices.Contains(listed, candidate) {
			c.rendered = candidate
		}
	}
	stream, err := opts.Rendered.Marshal()
	c.made[path.Join(path.Dir(name), c.rendered)] = stream
	return err
}

// resourcesOf returns a kustomization's resources, bases included, and all of it.
func resourcesOf(name string, content []byte) (resources []string, whole map[string]any, err error) {
	var k types.Kustomization
	if err := k.Unmarshal(content); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	k.FixKustomization()
	if err := yaml.Unmarshal(content, &whole); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, oneLine(err))
	}
	if whole == nil {
		whole = map[string]any{}
	}
	return k.Resources, whole, nil
}

// complete names what is not in the checkout by files that were made of it.
func (c *checkoutFS) complete(name string, content []byte) ([]byte, error) {
	old := deprecated(content)
	if name != c.top && len(c.bases) == 0 && !old {
		return content, nil
	}
	resources, whole, err := resourcesOf(name, content)
	if err != nil {
		return nil, err
	}
	changed := old
	modernize(whole)
	for i, resource := range resources {
		base, ok := c.bases[resource]
		if !ok {
			continue
		}
		sum := sha256.Sum256([]byte(resource))
		file := "remote-base-" + hex.EncodeToString(sum[:8]) + ".yaml"
		stream, err := base.Marshal()
		if err != nil {
			return nil, err
		}
		c.made[path.Join(path.Dir(name), file)] = stream
		resources[i], changed = file, true
	}
	if name == c.top && !slices.Contains(resources, c.rendered) {
		resources, changed = append([]string{c.rendered}, resources...), true
	}
	if !changed {
		return content, nil
	}
	delete(whole, "bases")
	whole["resources"] = resources
	return yaml.Marshal(whole)
}

// RemoteBases returns the remote resources that the kustomizations among files name, sorted: files as
// [KustomizeInputs] finds them.
func RemoteBases(files map[string][]byte) []string {
	var found []string
	for name, content := range files {
		if !slices.Contains(KustomizationFiles, path.Base(name)) {
			continue
		}
		resources, _, err := resourcesOf(name, content)
		if err != nil {
			continue // rendering says so
		}
		for _, resource := range resources {
			if !inline(resource) && remote(resource) {
				found = append(found, resource)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// deprecatedFields are those that modernize writes otherwise: Kustomize would tell the terminal of each, in each layer.
var deprecatedFields = []string{"bases", "patchesStrategicMerge", "commonLabels"}

func deprecated(content []byte) bool {
	return slices.ContainsFunc(deprecatedFields, func(field string) bool { return bytes.Contains(content, []byte(field)) })
}

// modernize does what kustomize edit fix does, as far as it changes nothing that is built. Bases are resources already.
func modernize(whole map[string]any) {
	if patches, isList := whole["patchesStrategicMerge"].([]any); isList {
		var merged []any
		for _, patch := range patches {
			field, text := "path", fmt.Sprint(patch)
			if inline(text) {
				field = "patch"
			}
			merged = append(merged, map[string]any{field: text})
		}
		more, _ := whole["patches"].([]any)
		whole["patches"] = append(merged, more...)
		delete(whole, "patchesStrategicMerge")
	}
	if pairs, isMap := whole["commonLabels"].(map[string]any); isMap {
		labels, _ := whole["labels"].([]any)
		whole["labels"] = append(slices.Clone(labels), map[string]any{"pairs": pairs, "includeSelectors": true})
		delete(whole, "commonLabels")
	}
}
