package publish

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

var update = flag.Bool("update", false, "write the expected results")

const wanted = "want/"

// Each archive holds a fleet repository, and below want/ what is published of it: every cluster's target, and every
// artifact with what is in it.
func TestGoldenFleets(t *testing.T) {
	archives, err := filepath.Glob("testdata/fleets/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			golden, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			fleet, want := map[string]string{}, map[string]string{}
			for _, file := range golden.Files {
				if strings.HasPrefix(file.Name, wanted) {
					want[file.Name] = string(file.Data)
				} else {
					fleet[file.Name] = string(file.Data)
				}
			}
			got := publishedOf(t, fleet, func(map[string]string) {})
			if *update {
				golden.Files = slices.DeleteFunc(golden.Files, func(file txtar.File) bool { return strings.HasPrefix(file.Name, wanted) })
				for _, name := range slices.Sorted(maps.Keys(got)) {
					golden.Files = append(golden.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(name, txtar.Format(golden), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("go test -update writes it (-want +got):\n%s", diff)
			}
			for seed := range uint64(3) {
				if diff := cmp.Diff(want, elsewhere(t, fleet, seed)); diff != "" {
					t.Errorf("shuffled with %d (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
}

// elsewhere publishes the same fleet on another machine: its files were written in another order, its clusters stand in
// other files and another order, so do the keys of its mappings, and umask and time zone differ.
func elsewhere(t *testing.T, fleet map[string]string, seed uint64) map[string]string {
	t.Helper()
	defer syscall.Umask(syscall.Umask([]int{0o077, 0o002, 0o027}[seed%3]))
	defer func(before *time.Location) { time.Local = before }(time.Local)
	time.Local = time.FixedZone("far", int(seed+1)*4*3600)
	random := rand.New(rand.NewPCG(seed, 7))
	return publishedOf(t, fleet, func(files map[string]string) {
		var inventory []string
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if strings.HasPrefix(name, "clusters/") {
				inventory = append(inventory, strings.Split(files[name], "---\n")...)
				delete(files, name)
			}
		}
		random.Shuffle(len(inventory), func(i, j int) { inventory[i], inventory[j] = inventory[j], inventory[i] })
		for i, document := range inventory {
			files[fmt.Sprintf("clusters/%d.yaml", i)] = reordered(t, document, random)
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if base := path.Base(name); base == "pinnace.yaml" || base == "fleet.yaml" {
				files[name] = reordered(t, files[name], random)
			}
		}
	})
}

// reordered writes a document with the keys of its mappings in another order.
func reordered(t *testing.T, document string, random *rand.Rand) string {
	t.Helper()
	var value any
	if err := yaml.Unmarshal([]byte(document), &value); err != nil {
		t.Fatal(err)
	}
	var write func(value any) string
	write = func(value any) string {
		switch value := value.(type) {
		case map[string]any:
			keys := slices.Sorted(maps.Keys(value))
			random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			var entries []string
			for _, key := range keys {
				entries = append(entries, fmt.Sprintf("%q: %s", key, write(value[key])))
			}
			return "{" + strings.Join(entries, ", ") + "}"
		case []any:
			var items []string
			for _, item := range value {
				items = append(items, write(item))
			}
			return "[" + strings.Join(items, ", ") + "]"
		case string:
			return fmt.Sprintf("%q", value)
		}
		return fmt.Sprint(value)
	}
	return write(value) + "\n"
}

// publishedOf publishes a fleet repository into an empty registry, and returns everything that agents read of it.
func publishedOf(t *testing.T, fleet map[string]string, change func(files map[string]string)) map[string]string {
	t.Helper()
	files := maps.Clone(fleet)
	change(files)
	dir := t.TempDir()
	for name, content := range files { // in no order
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	registry, signer := oci.NewMemory(), releaseSigner(t)
	result := mustRun(t, registry, options(t, dir, signer))
	out := map[string]string{}
	for _, one := range result.Targets {
		target, err := seen(t, registry, signer, one.Cluster)
		if err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(target)
		if err != nil {
			t.Fatal(err)
		}
		out[wanted+"targets/"+one.Cluster+".yaml"] = string(text)
		for _, bundle := range target.Bundles {
			out[wanted+"bundles/"+bundle.Name+"@"+bundle.Digest[len("sha256:"):][:12]] = contentOf(t, registry, signer, bundle)
		}
	}
	return out
}

// contentOf returns an artifact's config and files.
func contentOf(t *testing.T, registry oci.Registry, signer *signing.Signer, named v1alpha1.TargetBundle) string {
	t.Helper()
	verifier, err := signing.NewKeyVerifier("key", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository(named.Repository)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), named.Digest)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier.Verify(t.Context(), repo, named.Repository, desc)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := oci.FetchBundle(t.Context(), repo, verified)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := bundle.Content(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	content, err := archive.Unpack(bytes.NewReader(packed), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := yaml.Marshal(bundle.Config)
	if err != nil {
		t.Fatal(err)
	}
	text := "# config\n" + string(config)
	for _, name := range slices.Sorted(maps.Keys(content)) {
		text += "# " + name + "\n" + strings.TrimRight(string(content[name]), "\n") + "\n"
	}
	return text
}
