package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
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
	signer, err := loadSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), opts, signer, sums, made); err != nil {
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

// The image is the binary and the certificate authorities, the same whenever it is made, for each platform, and signed.
func TestImage(t *testing.T) {
	t.Parallel()
	server := registrytest.New(t)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"pinnace-agent-linux-amd64": "amd64", "pinnace-agent-linux-arm64": "arm64", "roots.pem": "roots",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := signing.NewMemorySigner()
	if err != nil {
		t.Fatal(err)
	}
	opts := options{
		dir: dir, version: "1.2.3", platforms: "linux/amd64,linux/arm64", image: server.Addr + "/tools/pinnace-agent",
		plainHTTP: true, roots: filepath.Join(dir, "roots.pem"),
	}
	reference, err := pushImage(t.Context(), opts, signer)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := pushImage(t.Context(), opts, signer); err != nil || again != reference {
		t.Errorf("made again: %s (%v), want %s", again, err, reference)
	}
	parsed, err := name.NewDigest(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signing.NewKeyVerifier("release", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := oci.Open(server.Addr+"/tools", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository("pinnace-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, machine := range []string{"amd64", "arm64"} {
		image, err := remote.Image(parsed, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: machine}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil || config.Architecture != machine || config.Config.User != imageUser {
			t.Errorf("%s: config %+v (%v)", machine, config, err)
		}
		var files []string
		contents := tar.NewReader(mutate.Extract(image))
		for header, err := contents.Next(); err == nil; header, err = contents.Next() {
			data, err := io.ReadAll(contents)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, fmt.Sprintf("%s %o %s", header.Name, header.Mode, data))
		}
		slices.Sort(files)
		if want := []string{"etc/ssl/certs/ca-certificates.crt 444 roots", "pinnace-agent 555 " + machine}; !slices.Equal(files, want) {
			t.Errorf("%s: files %q, want %q", machine, files, want)
		}
		hash, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		verified(t, verifier, repo, hash.String())
	}
	verified(t, verifier, repo, parsed.DigestStr())
	verified(t, verifier, repo, "1.2.3")
}

func verified(t *testing.T, verifier *signing.Verifier, repo oci.Repository, reference string) {
	t.Helper()
	desc, err := repo.Resolve(t.Context(), reference)
	if err == nil {
		_, err = verifier.Verify(t.Context(), repo, "pinnace-agent", desc)
	}
	if err != nil {
		t.Errorf("%s: %v", reference, err)
	}
}
