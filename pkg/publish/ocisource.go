package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// foundBundle is a bundle of a source: built here, or built by another CI and copied.
type foundBundle struct {
	bundler.Found
	prebuilt *prebuilt // nil: built here
}

// method is how the bundle is installed.
func (f foundBundle) method() v1alpha1.Method {
	if f.prebuilt != nil {
		return f.prebuilt.bundle.Config.Method
	}
	return f.Method()
}

// prebuilt is a bundle artifact in the repository of another CI, verified by the source's own policy.
type prebuilt struct {
	repo   oci.Repository
	desc   ocispec.Descriptor
	bundle oci.Bundle
}

// readOCI resolves an OCI source, verifies it and finds the bundles in it.
func readOCI(ctx context.Context, src v1alpha1.Source, opts LoadOptions, fleetDir string, build bundler.Options) ([]foundBundle, v1alpha1.IndexSource, error) {
	index := v1alpha1.IndexSource{Name: src.Name, Repository: src.OCI.Repository}
	repo, name, err := openSource(*src.OCI, opts.OCI)
	if err != nil {
		return nil, index, err
	}
	reference, err := chooseReference(ctx, repo, src.OCI.Ref)
	if err != nil {
		return nil, index, err
	}
	desc, err := repo.Resolve(ctx, reference)
	if err != nil {
		return nil, index, err
	}
	index.Commit = desc.Digest.String()
	verifier, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{
		Rules: []v1alpha1.TrustRule{{Match: "**", Signers: src.OCI.Verify}},
	}}, signing.Options{Dir: fleetDir})
	if err != nil {
		return nil, index, fmt.Errorf("verify: %w", err)
	}
	verified, err := verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return nil, index, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return nil, index, err
	}
	if manifest.ArtifactType == v1alpha1.ArtifactTypeBundle {
		found, err := readPrebuilt(ctx, src, repo, verified)
		return []foundBundle{found}, index, err
	}
	tree, err := extractFiles(ctx, repo, manifest, filepath.Join(opts.CacheDir, "oci", desc.Digest.Encoded()))
	if err != nil {
		return nil, index, err
	}
	tree.Commit, tree.Repository = index.Commit, index.Repository
	return discover(ctx, tree, src, index, build)
}

// discover finds the bundles in a source's files.
func discover(ctx context.Context, tree source.Tree, src v1alpha1.Source, index v1alpha1.IndexSource, build bundler.Options) ([]foundBundle, v1alpha1.IndexSource, error) {
	found, err := bundler.Discover(ctx, tree, src, build)
	bundles := make([]foundBundle, len(found))
	for i := range found {
		bundles[i].Found = found[i]
	}
	return bundles, index, err
}

func openSource(src v1alpha1.OCISource, opts oci.Options) (oci.Repository, string, error) {
	prefix, name := path.Split(src.Repository)
	opts.PlainHTTP = src.PlainHTTP
	registry, err := oci.Open(prefix, opts)
	if err != nil {
		return nil, "", err
	}
	repo, err := registry.Repository(name)
	return repo, name, err
}

// chooseReference returns the tag or digest that the source means now.
func chooseReference(ctx context.Context, repo oci.Repository, ref v1alpha1.OCIRef) (string, error) {
	switch {
	case ref.Digest != "" && ref.Tag == "" && ref.Semver == "":
		return ref.Digest, nil
	case ref.Tag != "" && ref.Digest == "" && ref.Semver == "":
		return ref.Tag, nil
	case ref.Semver == "" || ref.Tag != "" || ref.Digest != "":
		return "", errors.New("ref: set exactly one of tag, semver and digest")
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return "", err
	}
	tag, err := source.HighestVersion(tags, ref.Semver)
	if err != nil {
		return "", fmt.Errorf("ref.semver: %w", err)
	}
	if tag == "" {
		return "", fmt.Errorf("ref.semver: none of %d tags is within %q: %w", len(tags), ref.Semver, oci.ErrNotFound)
	}
	return tag, nil
}

// readPrebuilt takes a bundle as another CI built it.
func readPrebuilt(ctx context.Context, src v1alpha1.Source, repo oci.Repository, verified oci.Verified) (foundBundle, error) {
	bundle, err := oci.FetchBundle(ctx, repo, verified)
	if err != nil {
		return foundBundle{}, err
	}
	out := foundBundle{prebuilt: &prebuilt{repo: repo, desc: verified.Descriptor(), bundle: bundle}}
	out.Document = document.Document{File: repo.String()}
	out.Source = v1alpha1.SourceIdentity{Name: src.Name, Repository: src.OCI.Repository}
	out.Bundle.Metadata = v1alpha1.Metadata{Name: bundle.Config.Name, Labels: bundle.Config.Labels}
	if bundle.Config.Spec != nil {
		out.Bundle.Spec = *bundle.Config.Spec
	}
	if err := checkName(out.Document, bundle.Config.Name); err != nil {
		return out, err
	}
	for _, override := range out.Bundle.Spec.Overrides {
		if override.Kustomize != nil || len(override.Overlays) > 0 {
			return out, fmt.Errorf("bundle %q: override %q chooses another kustomization or overlays, but the bundle is built already; use files in Flux's format, or Git",
				bundle.Config.Name, override.Name)
		}
	}
	return out, nil
}

// extractFiles unpacks files in Flux's format into a folder, once.
//
// See https://fluxcd.io/flux/cheatsheets/oci-artifacts/
func extractFiles(ctx context.Context, repo oci.Repository, manifest ocispec.Manifest, dir string) (source.Tree, error) {
	tree := source.Tree{Dir: dir, Cached: true}
	if _, err := os.Stat(dir); err == nil {
		return tree, nil
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != v1alpha1.MediaTypeFluxContent {
		return tree, fmt.Errorf("%s is neither a bundle nor files in Flux's format (one layer of type %s)", repo, v1alpha1.MediaTypeFluxContent)
	}
	content, err := oci.ReadAll(ctx, repo, manifest.Layers[0], oci.MaxBundleContent)
	if err != nil {
		return tree, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return tree, err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return tree, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := archive.Extract(bytes.NewReader(content), archive.Limits{}, work); err != nil {
		return tree, fmt.Errorf("%s: %w", repo, err)
	}
	tree.Cached = false
	if err := os.Rename(work, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return tree, err
	}
	return tree, nil
}
