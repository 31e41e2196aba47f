package bundler_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// fluxPull does what Flux's source-controller does for an OCIRepository: it takes the layer with the selector's media
// type, or the first one, and extracts it as tar and gzip. Only regular files and folders inside of the archive count.
//
// See https://fluxcd.io/flux/components/source/ocirepositories/#layer-selector
func fluxPull(t *testing.T, server *registrytest.Server, repository, tag, mediaType string) map[string]string {
	t.Helper()
	get := func(location, accept string) []byte {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+server.Addr+"/v2/fleet/"+repository+location, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", accept)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", location, response.Status, err)
		}
		return body
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(get("/manifests/"+tag, ocispec.MediaTypeImageManifest), &manifest); err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0]
	for _, candidate := range manifest.Layers {
		if candidate.MediaType == mediaType {
			layer = candidate
		}
	}
	if mediaType != "" && layer.MediaType != mediaType {
		t.Fatalf("no layer of type %s among %+v", mediaType, manifest.Layers)
	}
	blob := get("/blobs/"+layer.Digest.String(), "")
	if digest.FromBytes(blob) != layer.Digest {
		t.Fatal("damaged layer")
	}
	unzipped, err := gzip.NewReader(strings.NewReader(string(blob)))
	if err != nil {
		t.Fatal(err)
	}
	files, archive := map[string]string{}, tar.NewReader(unzipped)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil || header.Typeflag != tar.TypeReg || path.IsAbs(header.Name) || strings.Contains(header.Name, "..") {
			t.Fatalf("%+v %v", header, err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(content)
	}
}

// A rendered bundle serves a Flux Kustomization: what it pulls are plain manifests. A release serves a HelmRelease with
// chartRef: its layer is the chart, copied as it is.
func TestBundlesServeFlux(t *testing.T) {
	server := registrytest.New(t)
	push := func(name string, built bundler.Built) {
		t.Helper()
		repo, err := server.Registry(t).Repository(v1alpha1.BundleRepository(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := oci.Push(t.Context(), repo, built.Artifact(), "1.0.0"); err != nil {
			t.Fatal(err)
		}
	}
	push("web", build(t, one(t, map[string]string{"web/a.yaml": deployment}, "web"), bundler.Variant{}))
	push("chart", build(t, one(t, chart("web"), "web"), bundler.Variant{}))

	for _, selector := range []string{"", v1alpha1.MediaTypeBundleContent} {
		files := fluxPull(t, server, "bundles/web", "1.0.0", selector)
		var object map[string]any
		if err := yaml.Unmarshal([]byte(files[bundler.ManifestsFile]), &object); err != nil || object["kind"] != "Deployment" {
			t.Errorf("selector %q: got %v, %v", selector, files, err)
		}
	}
	files := fluxPull(t, server, "bundles/chart", "1.0.0", v1alpha1.MediaTypeHelmChart)
	if !strings.Contains(files["web-chart/Chart.yaml"], "name: web-chart") {
		t.Errorf("got %v", files)
	}
}
