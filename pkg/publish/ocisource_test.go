package publish

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// serve starts a real registry and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	server, err := registry.Start(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.Addr
}

func pushSigned(t *testing.T, repo oci.Repository, artifact oci.Artifact, signer *signing.Signer, tags ...string) {
	t.Helper()
	desc, _, err := oci.Push(t.Context(), repo, artifact, tags...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(t.Context(), repo, desc); err != nil {
		t.Fatal(err)
	}
}

// buildElsewhere is what another CI does: build a bundle with a value and push it under a version.
func buildElsewhere(t *testing.T, repo oci.Repository, signer *signing.Signer, value string, tags ...string) {
	t.Helper()
	dir := write(t, t.TempDir(), map[string]string{
		"bundles/a/cm.yaml":      configMap("shop", value),
		"bundles/a/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\nspec: {namespace: shop}\n",
	})
	found, err := bundler.Discover(t.Context(), source.Tree{Dir: dir}, v1alpha1.Source{Name: "ci", Paths: []string{"bundles/a"}}, bundler.Options{})
	if err != nil {
		t.Fatal(err)
	}
	built, err := bundler.Build(t.Context(), found[0], bundler.Variant{})
	if err != nil {
		t.Fatal(err)
	}
	built.Config.Spec = &found[0].Bundle.Spec
	pushSigned(t, repo, built.Artifact(), signer, tags...)
}

func TestOCISources(t *testing.T) {
	ci, release, address := anotherSigner(t), releaseSigner(t), serve(t)
	elsewhere, err := oci.Open(address+"/ci", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	shop, err := elsewhere.Repository("bundles/shop")
	if err != nil {
		t.Fatal(err)
	}
	buildElsewhere(t, shop, ci, "one", "1.4.0", "stable")
	buildElsewhere(t, shop, ci, "two", "1.5.1")
	buildElsewhere(t, shop, ci, "three", "2.0.0")
	files, err := elsewhere.Repository("files")
	if err != nil {
		t.Fatal(err)
	}
	layer, err := archive.Pack("", map[string][]byte{"apps/flux/cm.yaml": []byte(configMap("flux", "1"))}, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	pushSigned(t, files, oci.Artifact{
		Config: oci.Blob{MediaType: "application/vnd.cncf.flux.config.v1+json", Data: []byte("{}")},
		Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeFluxContent, Data: layer}},
	}, ci, "main")

	fleet := func(ref string, key *signing.Signer) string {
		indented := strings.ReplaceAll(strings.TrimSpace(string(key.PublicKey())), "\n", "\n              ")
		return write(t, t.TempDir(), map[string]string{FleetFile: fmt.Sprintf(`apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  registry: 127.0.0.1:1/acme
  inventory: [clusters]
  sources:
    - name: apps
      paths: ["bundles/*"]
      targets: [{}]
    - name: shop
      targets: [{}]
      oci:
        repository: %[1]s/ci/bundles/shop
        plainHTTP: true
        ref: {%[2]s}
        verify:
          keys:
          - name: ci
            publicKey: |
              %[3]s
    - name: flux
      targets: [{}]
      paths: ["apps/*"]
      oci:
        repository: %[1]s/ci/files
        plainHTTP: true
        ref: {tag: main}
        verify:
          keys:
          - name: ci
            publicKey: |
              %[3]s
`, address, ref, indented)})
	}

	memory := &counting{Registry: oci.NewMemory()}
	mustRun(t, memory, options(t, fleet(`semver: ">=1.4 <2"`, ci), release))
	got, err := seen(t, memory, release, "east")
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for _, bundle := range got.Bundles {
		digests[bundle.Name] = bundle.Digest
	}
	for _, name := range []string{"a", "b", "c", "shop", "flux"} {
		if digests[name] == "" {
			t.Errorf("east doesn't get %s", name)
		}
	}
	want, err := shop.Resolve(t.Context(), "1.5.1")
	if err != nil {
		t.Fatal(err)
	}
	if digests["shop"] != want.Digest.String() {
		t.Errorf("got %s of shop, want 1.5.1: %s", digests["shop"], want.Digest)
	}
	// The other CI's signature travels with it, so that agents may ask for both.
	copied, err := memory.Repository("bundles/shop")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signing.NewKeyVerifier("ci", ci.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(t.Context(), copied, "bundles/shop", want); err != nil {
		t.Errorf("the copy isn't signed by the other CI any more: %v", err)
	}
	writes := memory.writes.Load()
	mustRun(t, memory, options(t, fleet(`semver: ">=1.4 <2"`, ci), release))
	if memory.writes.Load() != writes {
		t.Errorf("publishing the same again wrote %d times", memory.writes.Load()-writes)
	}

	_, err = run(t, oci.NewMemory(), options(t, fleet("tag: stable", release), release))
	var refusal *signing.Error
	if !errors.As(err, &refusal) || refusal.Reason != signing.KeyNotTrusted || !strings.Contains(err.Error(), `source "shop"`) {
		t.Errorf("another key than the source's: got %v", err)
	}
	if _, err = run(t, oci.NewMemory(), options(t, fleet(`semver: ">=3"`, ci), release)); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("no version in the range: got %v", err)
	}

	// Once it is published, a source that fails is kept.
	for name, broken := range map[string]string{
		"KeyNotTrusted": fleet("tag: stable", release), "none of": fleet(`semver: ">=3"`, ci),
	} {
		result := mustRun(t, memory, options(t, broken, release))
		if failed := result.Failed(); len(failed) == 0 || failed[0].Name != "shop" || !strings.Contains(failed[0].Failed, name) {
			t.Errorf("want shop to fail because of %q, got %+v", name, failed)
		}
		if result.Changed() {
			t.Errorf("%s: what clusters get changed: %+v", name, result.Targets)
		}
	}
}
