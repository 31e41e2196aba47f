package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// variantsOfBundle is how many overrides each bundle has: each cluster matches one.
const variantsOfBundle = 12

// fleet is what a measurement publishes.
type fleet struct {
	clusters, bundles int
	// payload is how many bytes of manifests a bundle has.
	payload int
	// plain leaves overrides and templates out.
	plain bool
}

// write lays the fleet repository. Half of the bundles are charts that agents install, half are manifests.
func (f fleet) write(dir string) error {
	files := map[string]string{"pinnace.yaml": `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: bench}
spec:
  registry: registry.example.com/bench
  inventory: [clusters]
  sources: [{name: apps, paths: ["bundles/*"], targets: [{clusterSelector: {matchLabels: {fleet: bench}}}]}]
`}
	const inFile = 100
	for at := 0; at < f.clusters; at += inFile {
		var clusters []string
		for i := at; i < min(at+inFile, f.clusters); i++ {
			clusters = append(clusters, clusterDocument(i))
		}
		files[fmt.Sprintf("clusters/%05d.yaml", at)] = strings.Join(clusters, "---\n")
	}
	for i := range f.bundles {
		folder := fmt.Sprintf("bundles/app-%03d/", i)
		if !f.plain {
			files[folder+"pinnace.yaml"] = bundleDocument(i)
		}
		if !f.plain && i%2 == 0 {
			files[folder+"Chart.yaml"] = fmt.Sprintf("apiVersion: v2\nname: app-%03d\nversion: 1.0.0\n", i)
			files[folder+"templates/config.yaml"] = chartTemplate
		}
		name := folder + "config.yaml"
		if !f.plain && i%2 == 0 {
			name = folder + "templates/data.yaml"
		}
		files[name] = configMap(i, 0, f.payload)
	}
	for name, content := range files {
		if err := write(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return nil
}

// change makes another version of a bundle.
func (f fleet) change(dir string, bundle, version int) error {
	name := "config.yaml"
	if !f.plain && bundle%2 == 0 {
		name = "templates/data.yaml"
	}
	return write(filepath.Join(dir, fmt.Sprintf("bundles/app-%03d", bundle), name), configMap(bundle, version, f.payload))
}

func write(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func clusterName(i int) string { return fmt.Sprintf("cluster-%05d", i) }

func clusterDocument(i int) string {
	return fmt.Sprintf(`apiVersion: pinnace.dev/v1alpha1
kind: Cluster
metadata:
  name: %s
  labels: {fleet: bench, variant: v%d, region: region-%d, group: g%d}
spec:
  values: {site: {id: "%05d", uplinkMbit: %d}}
`, clusterName(i), i%variantsOfBundle, i%7, i/50, i, 1+i%100)
}

func bundleDocument(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec:\n  namespace: app-%03d\n", i)
	if i%2 == 0 {
		b.WriteString(`  helm:
    values:
      replicas: 1
      site: "${ .cluster.values.site.id }"
      uplink: "${ .cluster.values.site.uplinkMbit }"
      name: "app on ${ .cluster.name }"
      resources: {limits: {cpu: 100m, memory: 64Mi}}
`)
	} else {
		b.WriteString("  variables: {SITE: \"${ .cluster.values.site.id }\", REGION: \"${ .cluster.labels.region }\", TIER: none}\n")
	}
	b.WriteString("  overrides:\n")
	for v := range variantsOfBundle {
		fmt.Fprintf(&b, "    - name: v%d\n      when: {clusterSelector: {matchLabels: {variant: v%[1]d}}}\n", v)
		if i%2 == 0 {
			fmt.Fprintf(&b, "      values: {replicas: %d, resources: {limits: {cpu: %d00m}}}\n", v, v+1)
		} else {
			fmt.Fprintf(&b, "      variables: {TIER: tier-%d}\n", v)
		}
	}
	return b.String()
}

const chartTemplate = `apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-settings"}
data:
  replicas: "{{ .Values.replicas }}"
  site: "{{ .Values.site }}"
  cpu: "{{ .Values.resources.limits.cpu }}"
`

// configMap has lines that differ from bundle to bundle, so that packing them makes them hardly smaller than they are.
func configMap(bundle, version, size int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: data}\ndata:\n  version: \"%d\"\n", version)
	for i := uint64(bundle)<<32 + 1; b.Len() < size; i++ {
		word := i * 0x9e3779b97f4a7c15
		fmt.Fprintf(&b, "  k%x: \"%016x%016x\"\n", i, word, word*0xbf58476d1ce4e5b9)
	}
	return b.String()
}
