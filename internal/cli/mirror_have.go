package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/mirror"
)

type mirrorHaveOptions struct {
	registry     registryFlags
	key          string
	passwordFile string
	file         string
	jobs         int
}

func newMirrorHaveCommand(s *session) *cobra.Command {
	var opts mirrorHaveOptions
	cmd := &cobra.Command{
		Use:   "have REGISTRY",
		Short: "Say what a receiver holds, for a small export",
		Long: `Write what a registry holds: the digests of its manifests and blobs, by repository, 43 bytes each. An export with
--have leaves these out. It is signed when a key is given.

The receipt that an import leaves serves the same; have is for what changed since, or without an import.`,
		Example: `  # On the site
  pinnace mirror have registry.site.example/fleet --output-file have.json

  # Signed with the site's key
  pinnace mirror have registry.site.example/fleet --key site.key --output-file have.json`,
		Args: arguments(1, 1, "the receiver's prefix"),
		RunE: func(cmd *cobra.Command, args []string) error { return runMirrorHave(cmd.Context(), s, args[0], opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.key, "key", "", "private key to sign it with; it is not signed when empty")
	flags.StringVar(&opts.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	flags.StringVar(&opts.file, "output-file", "", "file to write; standard output when empty")
	flags.IntVar(&opts.jobs, "jobs", 0, "requests at the same time; 24 when 0")
	opts.registry.register(cmd)
	return cmd
}

func runMirrorHave(ctx context.Context, s *session, prefix string, opts mirrorHaveOptions) error {
	registry, err := opts.registry.open(s, prefix)
	if err != nil {
		return err
	}
	have, err := mirror.TakeHave(ctx, registry, clock(), opts.jobs)
	if err != nil {
		return err
	}
	data, err := json.Marshal(have)
	if err != nil {
		return err
	}
	if opts.key != "" {
		signer, err := s.openKey(ctx, opts.key, opts.passwordFile)
		if err != nil {
			return err
		}
		if data, err = signer.SignEnvelope(ctx, mirror.MediaTypeHave, data); err != nil {
			return err
		}
	}
	holdings, err := have.Holdings()
	if err != nil {
		return err
	}
	if opts.file == "" {
		err = s.printf("%s\n", data)
	} else if err = renameio.WriteFile(opts.file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the have: %w", err)
	}
	s.message(markDone, "%s holds %d blobs and manifests in %s", registry, holdings.Len(), plural(len(have.Repositories), "repository", "repositories"))
	return err
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
