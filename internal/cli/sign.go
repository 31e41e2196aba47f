package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// maxReferences is more than a shell passes.
const maxReferences = 100_000

type signOptions struct {
	signFlags
	references []string
	jobs       int
	registry   registryFlags
	output     output
}

type signResult struct {
	resultMeta
	// Signatures counts those that were made: statements about many artifacts count once.
	Signatures int            `json:"signatures"`
	Artifacts  []signArtifact `json:"artifacts"`
}

type signArtifact struct {
	Reference  string `json:"reference"`
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
}

func newSignCommand(s *session) *cobra.Command {
	var opts signOptions
	cmd := &cobra.Command{
		Use:   "sign REFERENCE...",
		Short: "Sign artifacts in a registry",
		Long: `Sign artifacts in a registry: bundles, targets, container images, anything. A reference without a tag or a digest
means the tag "current". An artifact that the same signer signed before is left alone, and signatures by others are kept.

Who signs is a key (--key: a file, env://VARIABLE, or a KMS), or the identity that a CI's OIDC token names (--keyless).
A key signs each artifact; a KMS and an identity sign statements about up to 256 of them, which are attached to each.
Stock cosign verifies all of it.`,
		Example: `  # A second signature on what is published, for a policy with a threshold of two
  pinnace sign registry.example.com/fleet/bundles/shop@sha256:4c1e… --key second.key

  # By a key in a KMS, and with annotations
  pinnace sign registry.example.com/fleet/fleet:current --key awskms:///alias/release -a stage=canary

  # In a CI, as its own identity
  pinnace sign ghcr.io/acme/app@sha256:9f2c… --keyless`,
		Args: arguments(1, maxReferences, "at least one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.references = args
			return runSign(cmd.Context(), s, opts)
		},
	}
	opts.signFlags.register(cmd)
	cmd.Flags().IntVar(&opts.jobs, "jobs", 8, "signatures at the same time")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runSign(ctx context.Context, s *session, opts signOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	signer, err := opts.signFlags.open(ctx, s)
	if err != nil {
		return err
	}
	hosts := map[string]oci.Registry{}
	result := signResult{resultMeta: newResultMeta("SignResult")}
	var items []signing.Item
	for _, reference := range opts.references {
		item, artifact, err := resolveReference(ctx, s, opts.registry, hosts, reference)
		if err != nil {
			return err
		}
		items, result.Artifacts = append(items, item), append(result.Artifacts, artifact)
	}
	if result.Signatures, err = signer.SignAll(ctx, items, opts.jobs); err != nil {
		return err
	}
	v := view{data: result, columns: columns("REPOSITORY", "DIGEST")}
	for _, artifact := range result.Artifacts {
		v.rows = append(v.rows, []string{artifact.Repository, artifact.Digest})
		v.names = append(v.names, artifact.Repository+"@"+artifact.Digest)
	}
	if err := opts.output.print(s.Out, v); err != nil {
		return err
	}
	if result.Signatures == 0 {
		s.message(markDone, "signed by this signer before; nothing to do")
		return nil
	}
	s.message(markDone, "made %s over %s", count(result.Signatures, "signature"), count(len(items), "artifact"))
	return nil
}

// resolveReference finds any artifact of any registry, below a fleet's prefix or not.
func resolveReference(ctx context.Context, s *session, flags registryFlags, hosts map[string]oci.Registry, full string) (signing.Item, signArtifact, error) {
	host, repository, reference, err := takeApart(full)
	if err != nil {
		return signing.Item{}, signArtifact{}, err
	}
	registry := hosts[host]
	if registry == nil {
		if registry, err = oci.OpenHost(host, flags.options(s)); err != nil {
			return signing.Item{}, signArtifact{}, ofInput(err)
		}
		hosts[host] = registry
	}
	repo, err := registry.Repository(repository)
	if err != nil {
		return signing.Item{}, signArtifact{}, ofInput(err)
	}
	desc, err := repo.Resolve(ctx, reference)
	if err != nil {
		return signing.Item{}, signArtifact{}, fmt.Errorf("resolve %s: %w", full, err)
	}
	artifact := signArtifact{Reference: full, Repository: host + "/" + repository, Digest: desc.Digest.String()}
	return signing.Item{Repository: repo, Descriptor: desc}, artifact, nil
}

// takeApart splits host/path:tag and host/path@digest; the digest holds where both are there.
func takeApart(full string) (host, repository, reference string, err error) {
	rest := strings.TrimPrefix(full, "oci://")
	repository, reference, digested := strings.Cut(rest, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		if !digested {
			reference = repository[i+1:]
		}
		repository = repository[:i]
	}
	if reference == "" {
		reference = v1alpha1.TagCurrent
	}
	host, repository, ok := strings.Cut(repository, "/")
	if !ok || host == "" || repository == "" {
		return "", "", "", usagef("%q is no reference; write host[:port]/path:tag or host[:port]/path@sha256:…", full)
	}
	return host, repository, reference, nil
}
