package publish

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

func compare(t *testing.T, registry oci.Registry, opts Options) (DiffResult, error) {
	t.Helper()
	verifier, err := signing.NewKeyVerifier("key", opts.Signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(t.Context(), opts.LoadOptions)
	if err != nil {
		t.Fatal(err)
	}
	return diffPublished(t.Context(), loaded, registry, DiffOptions{LoadOptions: opts.LoadOptions, Verifier: verifier, Jobs: opts.Jobs})
}

// differences are a result's in a line each: bundle, action, clusters and objects.
func differences(result DiffResult) []string {
	var out []string
	for _, d := range result.Differences {
		line := fmt.Sprintf("%s %s %s:", d.Bundle, d.Action, strings.Join(d.Clusters, ","))
		for _, object := range d.Objects {
			line += fmt.Sprintf(" %s %s", object, object.Action)
		}
		out = append(out, line)
	}
	return out
}

func TestDiff(t *testing.T) {
	signer, registry := releaseSigner(t), &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)

	first, err := compare(t, registry, opts)
	if err != nil || !first.Differs() || first.Publication != 0 || registry.writes.Load() != 0 {
		t.Fatalf("before the first publish: %v, %v after %d writes", first, err, registry.writes.Load())
	}
	mustRun(t, registry, opts)
	writes := registry.writes.Load()
	same, err := compare(t, registry, opts)
	if err != nil || same.Differs() || len(same.Differences) != 0 || same.Publication != 1 {
		t.Fatalf("after a publish: %v, %v", same, err)
	}

	write(t, dir, map[string]string{
		"clusters/all.yaml":      cluster("east") + "---\n" + cluster("north"),
		"bundles/a/cm.yaml":      configMap("a", "2"),
		"bundles/b/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec: {namespace: other, overrides: [{when: {clusterName: north}, skip: true}]}\n",
		"bundles/c/cm.yaml":      "",
		"bundles/d/cm.yaml":      configMap("d", "1"),
	})
	got, err := compare(t, registry, opts)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"a changed east: v1 ConfigMap a changed",
		"a added north: v1 ConfigMap a added",
		"b changed east:",
		"c removed east: v1 ConfigMap c removed",
		"d added east,north: v1 ConfigMap d added",
	}
	if diff := cmp.Diff(want, differences(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Changed != 2 || cmp.Diff([]string{"north"}, got.Joined) != "" || cmp.Diff([]string{"west"}, got.Left) != "" || got.Refused != nil {
		t.Errorf("got %d changed, %v joined, %v left, %v refused", got.Changed, got.Joined, got.Left, got.Refused)
	}
	if text := got.Differences[0].Objects[0].Diff; !strings.Contains(text, "-  value: \"1\"\n+  value: \"2\"\n") {
		t.Errorf("got %s", text)
	}
	if text := got.Differences[2].Options; !strings.Contains(text, "-namespace: default\n+namespace: other\n") {
		t.Errorf("got %s", text)
	}
	if registry.writes.Load() != writes {
		t.Errorf("wrote %d times", registry.writes.Load()-writes)
	}
}

func TestDiffWarnsOfWhatAPublishRefuses(t *testing.T) {
	signer, registry := releaseSigner(t), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)
	mustRun(t, registry, opts)
	write(t, dir, map[string]string{"bundles/a/cm.yaml": "", "bundles/b/cm.yaml": ""})
	got, err := compare(t, registry, opts)
	if err != nil || cmp.Diff([]string{"east", "west"}, got.Refused) != "" {
		t.Errorf("got %v refused, %v", got.Refused, err)
	}
}

func TestDiffTrustsTheKeyOnly(t *testing.T) {
	registry := oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	mustRun(t, registry, options(t, dir, releaseSigner(t)))
	_, err := compare(t, registry, options(t, dir, anotherSigner(t)))
	if !errors.As(err, new(*signing.Error)) {
		t.Errorf("got %v, want a refusal", err)
	}
}

// commit makes a folder a Git repository with a branch main and a tag v1.
func commit(t *testing.T, dir string) {
	t.Helper()
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-qm", "first"}, {"tag", "v1"}} {
		command := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// A pull request's checkout is a folder, while what is published was read by the repository's URL.
func TestDiffOfAFolderWithWhatWasReadByURL(t *testing.T) {
	registry := oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	commit(t, dir)
	mustRun(t, registry, options(t, "file://"+dir, releaseSigner(t)))
	if got, err := compare(t, registry, options(t, dir, releaseSigner(t))); err != nil || got.Differs() {
		t.Errorf("got %v, %v, want no difference", differences(got), err)
	}
}

// Two revisions of the repository are compared without any registry.
func TestDiffOfRevisions(t *testing.T) {
	dir := write(t, t.TempDir(), nil)
	commit(t, dir)
	write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "2"), "clusters/all.yaml": cluster("east")})
	opts := DiffOptions{LoadOptions: options(t, dir, releaseSigner(t)).LoadOptions}
	for _, from := range []string{"main", "v1"} {
		opts.From = from
		got, err := Diff(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"a changed east: v1 ConfigMap a changed"}
		if diff := cmp.Diff(want, differences(got)); diff != "" || got.From != from || cmp.Diff([]string{"west"}, got.Left) != "" {
			t.Errorf("from %s: %v left (-want +got):\n%s", got.From, got.Left, diff)
		}
	}
	opts.From = "nowhere"
	if _, err := Diff(t.Context(), opts); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("got %v, want that there is no such revision", err)
	}
}
