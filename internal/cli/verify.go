package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type verifyOptions struct {
	reference string
	prefix    string
	policy    string
	key       string
	registry  registryFlags
	output    output
}

type verifyResult struct {
	resultMeta
	Reference  string   `json:"reference"`
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Signers    []string `json:"signers"`
}

func newVerifyCommand(s *session) *cobra.Command {
	var opts verifyOptions
	cmd := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "Verify an artifact's signatures",
		Long: `Verify the signatures of an artifact in a registry, by the trust policy that agents have, or by one public key.
It exits with 6 when the signatures don't suffice.

A policy's rules match the repository's name below the fleet's prefix. The prefix is what stands before bundles/,
targets/ or fleet; name it with --prefix where that doesn't fit.`,
		Example: `  # What an agent would say
  pinnace verify registry.example.com/fleet/targets/factory-01:current --policy trust.yaml

  # By one key
  pinnace verify registry.example.com/fleet/bundles/shop@sha256:4c1e… --key cosign.pub`,
		Args: arguments(1, 1, "one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.reference = args[0]
			return runVerify(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.policy, "policy", "", "trust policy, a TrustPolicy document")
	flags.StringVar(&opts.key, "key", "", "public key, PEM, that must have signed")
	flags.StringVar(&opts.prefix, "prefix", "", "the fleet's prefix: host[:port]/path")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runVerify(ctx context.Context, s *session, opts verifyOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	prefix, name, reference, err := splitReference(opts.reference, opts.prefix)
	if err != nil {
		return err
	}
	verifier, err := loadVerifier(s, opts.policy, opts.key)
	if err != nil {
		return err
	}
	registry, err := opts.registry.open(s, prefix)
	if err != nil {
		return err
	}
	repo, err := registry.Repository(name)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, reference)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", opts.reference, err)
	}
	verified, err := verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return err
	}
	result := verifyResult{
		resultMeta: newResultMeta("VerifyResult"), Reference: opts.reference, Repository: name,
		Digest: desc.Digest.String(), Signers: verified.Signers(),
	}
	return opts.output.print(s.Out, view{
		data:    result,
		columns: columns("REPOSITORY", "DIGEST", "SIGNERS"),
		rows:    [][]string{{name, result.Digest, strings.Join(result.Signers, ",")}},
		names:   []string{name + "@" + result.Digest},
	})
}

// loadVerifier takes a policy or a key: exactly one.
func loadVerifier(s *session, policyFile, keyFile string) (*signing.Verifier, error) {
	switch {
	case policyFile != "" && keyFile != "":
		return nil, usagef("--policy and --key exclude each other; give one")
	case keyFile != "":
		public, err := readSmallFile(keyFile)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		verifier, err := signing.NewKeyVerifier(filepath.Base(keyFile), public)
		if err != nil {
			return nil, usagef("public key %s: %w; name the .pub file of a key pair", keyFile, err)
		}
		return verifier, nil
	case policyFile != "":
		data, err := readSmallFile(policyFile)
		if err != nil {
			return nil, fmt.Errorf("trust policy: %w", err)
		}
		policy, _, err := document.Decode[v1alpha1.TrustPolicy](policyFile, data, v1alpha1.KindTrustPolicy)
		if err != nil {
			return nil, err
		}
		verifier, err := signing.NewVerifier(policy, signing.Options{
			Dir:  filepath.Dir(policyFile),
			Warn: func(refused *signing.Error) { s.message(markWarning, "%v", refused) },
		})
		if err != nil {
			return nil, ofInput(fmt.Errorf("%s: %w", policyFile, err))
		}
		return verifier, nil
	}
	return nil, usagef("say whom to trust: --policy trust.yaml, or --key cosign.pub")
}

// splitReference takes host/path/name:tag or host/path/name@digest apart. Without a prefix, it ends before the last
// element that begins a repository of a fleet.
func splitReference(full, prefix string) (registry, name, reference string, err error) {
	rest := strings.TrimPrefix(full, "oci://")
	repository, reference, digested := strings.Cut(rest, "@")
	if !digested {
		if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
			repository, reference = rest[:i], rest[i+1:]
		} else {
			reference = v1alpha1.TagCurrent
		}
	} else if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository = repository[:i] // name:tag@digest: the digest holds
	}
	if prefix != "" {
		prefix = strings.Trim(strings.TrimPrefix(prefix, "oci://"), "/")
		name, ok := strings.CutPrefix(repository, prefix+"/")
		if !ok {
			return "", "", "", usagef("%s is not below --prefix %s", full, prefix)
		}
		return prefix, name, reference, nil
	}
	elements := strings.Split(repository, "/")
	for i := len(elements) - 1; i >= 2; i-- {
		if fleetElement(elements, i) {
			return strings.Join(elements[:i], "/"), strings.Join(elements[i:], "/"), reference, nil
		}
	}
	return "", "", "", usagef("%s has none of bundles/…, targets/…, status/… and fleet below a prefix; name the prefix with --prefix", full)
}

func fleetElement(elements []string, i int) bool {
	switch elements[i] {
	case "bundles", "targets", "status":
		return i == len(elements)-2
	case v1alpha1.RepositoryFleet:
		return i == len(elements)-1
	}
	return false
}
