package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/filters/patchjson6902"
	"sigs.k8s.io/kustomize/api/filters/patchstrategicmerge"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	k8syaml "sigs.k8s.io/yaml"
)

const (
	// OverlaysDir holds a bundle's overlays, each a folder.
	OverlaysDir = "overlays"
	patchMark   = "_patch."
)

// Overlaid returns a folder's files with overlays laid over them, in order: a file takes the place of the one with the
// same path, a patch (name_patch.yaml) changes the one that it is named after. It may be a JSON patch (RFC 6902) or a
// strategic merge patch.
func Overlaid(files map[string][]byte, overlays []string) (map[string][]byte, error) {
	out := maps.Clone(files)
	for _, overlay := range overlays {
		prefix := path.Join(OverlaysDir, overlay) + "/"
		if !fs.ValidPath(overlay) || overlay == "." {
			return nil, fmt.Errorf("%q is no name of an overlay: a folder in %s", overlay, OverlaysDir)
		}
		found := false
		for _, name := range slices.Sorted(maps.Keys(files)) {
			below, inside := strings.CutPrefix(name, prefix)
			if !inside {
				continue
			}
			found = true
			target, isPatch := patched(below)
			if !isPatch {
				out[below] = files[name]
				continue
			}
			base, ok := out[target]
			if !ok {
				return nil, fmt.Errorf("%s: there is no %s to patch", name, target)
			}
			changed, err := patch(base, files[name])
			if err != nil {
				return nil, fmt.Errorf("%s: patch %s: %w", name, target, err)
			}
			out[target] = changed
		}
		if !found {
			return nil, fmt.Errorf("there is no file in %s", strings.TrimSuffix(prefix, "/"))
		}
	}
	return out, nil
}

// patched returns what a file patches by its name.
func patched(name string) (target string, isPatch bool) {
	dir, base := path.Split(name)
	if !strings.Contains(base, patchMark) {
		return "", false
	}
	return dir + strings.Replace(base, patchMark, ".", 1), true
}

func patch(base, change []byte) ([]byte, error) {
	documents := split(base)
	if len(documents) != 1 {
		return nil, fmt.Errorf("a file of %d objects cannot be patched; split it", len(documents))
	}
	object, err := decode(documents[0], true)
	if err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("it holds no object")
	}
	node, err := yaml.FromMap(object)
	if err != nil {
		return nil, err
	}
	filter, err := patchFilter(change, node)
	if err != nil {
		return nil, err
	}
	kustomizing.Lock()
	defer kustomizing.Unlock()
	nodes, err := filter.Filter([]*yaml.RNode{node})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, node := range nodes { // none when the patch deletes the object
		text, err := node.String()
		if err != nil {
			return nil, err
		}
		out.WriteString(text)
	}
	return out.Bytes(), nil
}

// patchFilter reads a patch. One without a kind is of what it changes.
func patchFilter(change []byte, base *yaml.RNode) (kio.Filter, error) {
	if data, err := k8syaml.YAMLToJSON(change); err == nil && bytes.HasPrefix(data, []byte("[")) {
		return patchjson6902.Filter{Patch: string(data)}, nil
	}
	documents := split(change)
	if len(documents) != 1 {
		return nil, fmt.Errorf("the patch holds %d documents, want 1", len(documents))
	}
	merge, err := decode(documents[0], true)
	if err != nil {
		return nil, err
	}
	if merge == nil {
		return nil, errors.New("the patch is empty")
	}
	if merge["kind"] == nil {
		merge["apiVersion"], merge["kind"] = base.GetApiVersion(), base.GetKind()
	}
	node, err := yaml.FromMap(merge)
	return patchstrategicmerge.Filter{Patch: node}, err
}
