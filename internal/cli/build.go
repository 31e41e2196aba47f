package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type buildOptions struct {
	dir       string
	root      string
	source    string
	kustomize string
	layout    string
	push      string
	tags      []string
	cacheDir  string
	digests   bool
	signFlags
	registry registryFlags
	output   output
}

type buildResult struct {
	resultMeta
	Name       string          `json:"name"`
	Repository string          `json:"repository"`
	Digest     string          `json:"digest"`
	Method     v1alpha1.Method `json:"method"`
	Objects    int             `json:"objects"`
	Bytes      int             `json:"bytes"`
	Images     []string        `json:"images,omitempty"`
	Created    bool            `json:"created"`
	Signed     bool            `json:"signed"`
}

func newBuildCommand(s *session) *cobra.Command {
	var opts buildOptions
	cmd := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Build one folder into one bundle",
		Long: `Build the bundle in a folder: manifests, a kustomization or a Helm chart, with or without a pinnace.yaml. Without
--layout and --push its objects are printed as YAML.

No cluster is concerned: overrides are not applied, and templates in values stay as they are written.`,
		Example: `  # See the objects
  pinnace build bundles/shop

  # As it would be for clusters with an overlay
  pinnace build bundles/shop --kustomize overlays/eu

  # Into an OCI layout, or into a registry and signed
  pinnace build bundles/shop --layout out
  pinnace build bundles/shop --push registry.example.com/ci --tag 1.4.0 --key cosign.key`,
		Args: arguments(0, 1, "at most one folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.dir = "."
			if len(args) == 1 {
				opts.dir = args[0]
			}
			return runBuild(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.root, "root", "", "folder that the bundle may read files from: the source's root; the current one when empty")
	flags.StringVar(&opts.source, "source", "local", "name of the source that the bundle says it is from")
	flags.StringVar(&opts.kustomize, "kustomize", "", "folder of the kustomization, relative to the bundle's; the bundle's choice when empty")
	flags.StringVar(&opts.cacheDir, "cache-dir", "", "folder that keeps charts of repositories; pinnace in the user's cache folder when empty")
	flags.BoolVar(&opts.digests, "image-digests", false, "ask the images' registries for their digests, and record them")
	flags.StringVar(&opts.layout, "layout", "", "OCI layout folder to write to")
	flags.StringVar(&opts.push, "push", "", "prefix to push below: host[:port]/path")
	flags.StringArrayVar(&opts.tags, "tag", nil, "tag to point at the bundle; may be repeated")
	opts.signFlags.register(cmd)
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runBuild(ctx context.Context, s *session, opts buildOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	registry, err := opts.destination(s)
	if err != nil {
		return err
	}
	var signer *signing.Signer
	if opts.signFlags.given() {
		if signer, err = opts.signFlags.open(ctx, s); err != nil {
			return err
		}
	}
	build, names, err := opts.reach(s)
	if err != nil {
		return err
	}
	found, err := findBundle(ctx, opts, build)
	if err != nil {
		return ofInput(err)
	}
	s.warn(bundler.Warnings([]bundler.Found{found}))
	built, err := bundler.Build(ctx, found, opts.variant(found))
	if err != nil {
		return ofInput(err)
	}
	s.warn(names.Warnings())
	if registry == nil {
		return s.printObjects(built.Objects)
	}
	if err := found.CheckShared(); err != nil {
		return ofInput(err)
	}
	// Whoever uses the artifact as an OCI source gets what pinnace.yaml says with it.
	built.Config.Spec = &found.Bundle.Spec
	result, err := store(ctx, registry, found.Bundle.Metadata.Name, built, opts.tags, signer)
	if err != nil {
		return err
	}
	return opts.output.print(s.Out, view{
		data:    result,
		columns: columns("BUNDLE", "METHOD", "OBJECTS", "BYTES", "DIGEST", "+REPOSITORY"),
		rows: [][]string{{
			result.Name, string(result.Method), fmt.Sprint(result.Objects), fmt.Sprint(result.Bytes), result.Digest, result.Repository,
		}},
		names: []string{result.Repository + "@" + result.Digest},
	})
}

// reach says how charts that are not in the folder are reached, with the credentials that a publish uses.
func (o buildOptions) reach(s *session) (bundler.Options, *resolution.Memory, error) {
	from, err := (&fleetFlags{cacheDir: o.cacheDir}).options()
	if err != nil {
		return bundler.Options{}, nil, err
	}
	return bundler.Reach(bundler.Remotes{
		Source: source.Options{CacheDir: from.CacheDir, Auth: from.Auth}, OCI: o.registry.options(s),
		HelmConfig: from.HelmConfig, Images: &v1alpha1.ImageOptions{Digests: o.digests},
	})
}

// destination is where the bundle goes; nil when it is printed.
func (o buildOptions) destination(s *session) (oci.Registry, error) {
	switch {
	case o.layout != "" && o.push != "":
		return nil, usagef("--layout and --push exclude each other; give one")
	case o.layout != "":
		return oci.OpenLayout(o.layout)
	case o.push != "":
		return o.registry.open(s, o.push)
	case o.signFlags.given() || len(o.tags) > 0:
		return nil, usagef("signing and --tag need a place for the bundle: --layout, or --push")
	}
	return nil, nil
}

func (o buildOptions) variant(found bundler.Found) bundler.Variant {
	variant := bundler.Variant{Kustomize: o.kustomize, Namespace: found.Bundle.Spec.Namespace}
	if helm := found.Bundle.Spec.Helm; helm != nil {
		variant.HelmValues = helm.Values
	}
	return variant
}

// findBundle reads the only bundle in the folder.
func findBundle(ctx context.Context, opts buildOptions, build bundler.Options) (bundler.Found, error) {
	dir, err := filepath.Abs(opts.dir)
	if err != nil {
		return bundler.Found{}, fmt.Errorf("build %s: %w", opts.dir, err)
	}
	root, err := opts.sourceRoot(dir)
	if err != nil {
		return bundler.Found{}, fmt.Errorf("build %s: %w", opts.dir, err)
	}
	path, err := filepath.Rel(root, dir)
	if err != nil || !filepath.IsLocal(path) {
		return bundler.Found{}, usagef("%s is not below --root %s", opts.dir, opts.root)
	}
	tree, err := source.Fleet(ctx, root, v1alpha1.GitRef{}, source.Options{})
	if err != nil {
		return bundler.Found{}, err
	}
	all, err := bundler.Discover(ctx, tree, v1alpha1.Source{Name: opts.source, Paths: []string{filepath.ToSlash(path)}}, build)
	if err != nil {
		return bundler.Found{}, err
	}
	if len(all) != 1 {
		return bundler.Found{}, codef(exitcode.NotFound, "%s is no bundle: it holds no manifests, kustomization.yaml or Chart.yaml", opts.dir)
	}
	return all[0], nil
}

// sourceRoot is the source's root. Without a word it is where the command runs, as in a repository; the folder's parent
// when the bundle isn't below.
func (o buildOptions) sourceRoot(dir string) (string, error) {
	if o.root != "" {
		return filepath.Abs(o.root)
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if below, err := filepath.Rel(here, dir); err == nil && below != "." && filepath.IsLocal(below) {
		return here, nil
	}
	return filepath.Dir(dir), nil
}

// store pushes the bundle where publish would, and signs it when there is a key.
func store(ctx context.Context, registry oci.Registry, name string, built bundler.Built, tags []string, signer *signing.Signer) (buildResult, error) {
	repo, err := registry.Repository(v1alpha1.BundleRepository(name))
	if err != nil {
		return buildResult{}, err
	}
	artifact := built.Artifact()
	digest := artifact.Descriptor().Digest
	// A tag keeps it from a registry's garbage collection.
	tags = append([]string{v1alpha1.ContentTag(digest.String())}, tags...)
	desc, created, err := oci.Push(ctx, repo, artifact, tags...)
	if err != nil {
		return buildResult{}, fmt.Errorf("push bundle %q to %s: %w", name, repo, err)
	}
	if signer != nil {
		if _, err := signer.Sign(ctx, repo, desc); err != nil {
			return buildResult{}, fmt.Errorf("sign bundle %q: %w", name, err)
		}
	}
	result := buildResult{
		resultMeta: newResultMeta("BuildResult"), Name: name, Repository: repo.String(), Digest: desc.Digest.String(),
		Method: built.Config.Method, Objects: len(built.Objects), Bytes: len(built.Layer), Created: created, Signed: signer != nil,
	}
	for _, image := range built.Config.Images {
		result.Images = append(result.Images, image.Reference)
	}
	return result, nil
}

// printObjects writes the objects as one YAML stream.
func (s *session) printObjects(objects []*unstructured.Unstructured) error {
	var out strings.Builder
	for _, object := range objects {
		data, err := yaml.Marshal(object.Object)
		if err != nil {
			return fmt.Errorf("print %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return s.printf("%s", out.String())
}
