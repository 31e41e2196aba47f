package demo

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pinnace.dev/pinnace/examples"
)

// Kinds of clusters, as the example fleet has them.
var kinds = []struct{ kind, labels, values string }{
	{"factory", "region: eu, tier: edge, site: factory", `{id: "%d", title: "Factory %[1]d", uplinkMbit: 100}`},
	{"store", "region: us, tier: edge, site: store", `{id: "%d", title: "Store %[1]d", uplinkMbit: 25}`},
	{"ship", "region: sea, tier: edge, site: ship, link: satellite", `{id: "%d", title: "Ship %[1]d", uplinkMbit: 2}`},
}

// ClusterNames are the names of n clusters: factories, stores and ships in turn.
func ClusterNames(n int) []string {
	width := len(fmt.Sprint((n + len(kinds) - 1) / len(kinds)))
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%0*d", kinds[i%len(kinds)].kind, max(2, width), i/len(kinds)+1)
	}
	return names
}

// writeFleet writes the example fleet with n clusters, whose reports are verified with the keys, and a rollout strategy.
func writeFleet(dir, prefix, strategy string, keys []string) error {
	if err := os.CopyFS(dir, examples.Fleet()); err != nil {
		return err
	}
	for _, name := range []string{"factory-01", "store-42", "ship-7"} {
		if err := os.Remove(filepath.Join(dir, "clusters", name+".yaml")); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "pinnace.yaml")
	fleet, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fleet = bytes.Replace(fleet, []byte("registry: "+examples.Registry), []byte("registry: "+prefix), 1)
	fleet = append(bytes.TrimRight(fleet, "\n"), "\n"+strategy...)
	if err := os.WriteFile(path, fleet, 0o644); err != nil {
		return err
	}
	var clusters strings.Builder
	for i, name := range ClusterNames(len(keys)) {
		kind := kinds[i%len(kinds)]
		fmt.Fprintf(&clusters, "---\napiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata:\n  name: %s\n  labels: {%s}\nspec:\n  values:\n    site: %s\n",
			name, kind.labels, fmt.Sprintf(kind.values, i/len(kinds)+1))
		fmt.Fprintf(&clusters, "  statusKey: |\n    %s\n", strings.ReplaceAll(strings.TrimSpace(keys[i]), "\n", "\n    "))
	}
	return os.WriteFile(filepath.Join(dir, "clusters", "all.yaml"), []byte(clusters.String()), 0o644)
}

// strategyOf spreads changes so that a person can watch it.
func strategyOf(clusters int, opts Options) string {
	canaries, percent := ClusterNames(clusters)[:1], 30
	if clusters >= 100 {
		canaries, percent = ClusterNames(clusters)[:3], 10
	}
	return fmt.Sprintf(`  rollout:
    canaries: [%s]
    waves: [{percent: %d}]
    maxUnavailable: 50%%
    bake: %s
    minSuccess: 95%%
    deadline: %s
    seenWithin: %s
    onAbort: revert
`, strings.Join(canaries, ", "), percent, opts.bake(), opts.deadline(), opts.seenWithin())
}

// brokenImage is an image that no simulated cluster can pull.
const brokenImage = "registry.example/broken:1"

// bundleFiles are the files of a bundle that name an image.
func bundleFiles(dir, bundle string) ([]string, error) {
	var found []string
	root := filepath.Join(dir, "bundles", bundle)
	files := os.DirFS(root)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err == nil && strings.Contains(string(data), "image: ") && !strings.Contains(string(data), "{{") {
			found = append(found, filepath.Join(root, filepath.FromSlash(name)))
		}
		return err
	})
	return found, err
}

// breakBundle lets a bundle name an image that cannot be pulled.
func breakBundle(dir, bundle string) error {
	files, err := bundleFiles(dir, bundle)
	if err != nil || len(files) == 0 {
		return fmt.Errorf("there is no bundle %q with an image; try one of %s", bundle, strings.Join(breakable(dir), ", "))
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines := strings.Split(string(data), "\n")
		for i, line := range lines {
			if before, _, found := strings.Cut(line, "image: "); found {
				lines[i] = before + "image: " + brokenImage
			}
		}
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mendBundle writes a bundle as it was; false when there is none of that name.
func mendBundle(dir, bundle string) (bool, error) {
	original, err := fs.Sub(examples.Fleet(), "bundles/"+bundle)
	if err != nil {
		return false, err
	}
	if _, err := fs.Stat(original, "."); err != nil {
		return false, nil //nolint:nilerr // there is none
	}
	target := filepath.Join(dir, "bundles", bundle)
	if err := os.RemoveAll(target); err != nil {
		return true, err
	}
	return true, os.CopyFS(target, original)
}

// breakable are the bundles that can be broken.
func breakable(dir string) []string {
	var names []string
	entries, err := os.ReadDir(filepath.Join(dir, "bundles"))
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if files, err := bundleFiles(dir, entry.Name()); err == nil && len(files) > 0 {
			names = append(names, entry.Name())
		}
	}
	return names
}

// replace replaces text in a file of the fleet.
func replace(dir, name, from, to string) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte(from)) {
		return fmt.Errorf("%s does not hold %q", name, from)
	}
	return os.WriteFile(path, bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o644)
}
