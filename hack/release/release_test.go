package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pinnace.dev/pinnace/pkg/oci/signing"
)

// The documents of this test's own binary.
func TestDocuments(t *testing.T) {
	dir := t.TempDir()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(executable, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	name, err := writeSBOM(dir, "program", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var got bom
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Metadata.Component.Version != "1.2.3" || !strings.Contains(string(data), "pkg:golang/github.com/sigstore/cosign/v2@v2.") {
		t.Errorf("SBOM of %+v with %d components, want cosign among them", got.Metadata.Component, len(got.Components))
	}

	sums, err := checksums(dir, []string{"program", name})
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "release.key")
	if err := os.WriteFile(key, private, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COSIGN_PASSWORD", "")
	opts := options{dir: dir, version: "1.2.3", commit: "abc", repository: "https://example.com/pinnace", key: key}
	made, err := provenance(opts, sums)
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), opts, sums, made); err != nil {
		t.Fatal(err)
	}
	envelope, err := os.ReadFile(filepath.Join(dir, "provenance.intoto.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signing.OpenEnvelope(public, intotoPayload, envelope)
	if err != nil || string(payload) != string(made) {
		t.Errorf("the provenance doesn't verify: %v", err)
	}
	var said statement
	if err := json.Unmarshal(payload, &said); err != nil || len(said.Subject) != 2 {
		t.Errorf("%d subjects and %v, want 2", len(said.Subject), err)
	}
	if signature, err := os.ReadFile(filepath.Join(dir, sumsFile+".sig")); err != nil || len(signature) < 64 {
		t.Errorf("signature of the checksums: %q, %v", signature, err)
	}
}
