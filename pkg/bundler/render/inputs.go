package render

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxClosure stops kustomizations that refer to folders and files without end, one through another.
const maxClosure = 1000

// KustomizeInputs reads every file that a kustomization may use: its folder, and whatever its own and other
// kustomizations name beside it, by path relative to the checkout. Files that are not there are left out.
func KustomizeInputs(folder Folder) (map[string][]byte, error) {
	root, err := os.OpenRoot(folder.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	checkout, err := newCheckoutFS(root)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	queue, seen := []string{folder.Path}, map[string]bool{}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if seen[name] {
			continue
		}
		if seen[name] = true; len(seen) > maxClosure {
			return nil, fmt.Errorf("%s: refers to more than %d other places", folder.Path, maxClosure)
		}
		found, err := inputsAt(Folder{Root: folder.Root, Path: name})
		if err != nil {
			return nil, err
		}
		maps.Copy(files, found)
		for _, file := range slices.Sorted(maps.Keys(found)) {
			if !slices.Contains(KustomizationFiles, path.Base(file)) {
				continue
			}
			queue = append(queue, references(path.Dir(file), found[file])...)
			// Behind a symbolic link, paths start where the file really is.
			if real, _, err := checkout.CleanedAbs(file); err == nil {
				queue = append(queue, references(local(string(real)), found[file])...)
			}
		}
	}
	return files, nil
}

// inputsAt reads a folder or a file, nothing where there is none.
func inputsAt(place Folder) (map[string][]byte, error) {
	if content, err := place.File("."); err == nil {
		return map[string][]byte{place.Path: content}, nil
	}
	below, err := place.Files()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	files := map[string][]byte{}
	for name, content := range below {
		files[path.Join(place.Path, name)] = content
	}
	return files, nil
}

// references are the paths in a kustomization that lead out of its folder: every string that holds .., whatever it is
// for.
func references(dir string, kustomization []byte) []string {
	var value any
	if yaml.Unmarshal(kustomization, &value) != nil {
		return nil
	}
	var found []string
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case string:
			for _, candidate := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune("=\n \"'", r) }) {
				joined := path.Join(dir, candidate)
				if strings.Contains(candidate, "..") && fs.ValidPath(joined) {
					found = append(found, joined)
				}
			}
		case []any:
			for _, item := range value {
				walk(item)
			}
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(value)) {
				walk(value[key])
			}
		}
	}
	walk(value)
	return found
}
