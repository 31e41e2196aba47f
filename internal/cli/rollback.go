package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/publish"
)

type rollbackOptions struct {
	registry     registryFlags
	prefix       string
	key          string
	passwordFile string
	to           int64
	clusters     []string
	allowPrune   bool
	dryRun       bool
	output       output
}

func newRollbackCommand(s *session) *cobra.Command {
	var opts rollbackOptions
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Give clusters again what an earlier publication gave them",
		Long: `Issue new targets with the content of an earlier publication. Generations still only grow, so that agents accept
them; bundles are in the registry already and nothing is built. A cluster that the earlier publication didn't have keeps
what it has.

The fleet repository is not read: the next publish brings again what it says, so mend it before.`,
		Example: `  # All clusters back to what publication 41 gave them
  pinnace rollback --registry registry.example.com/fleet --to 41 --key cosign.key

  # Two clusters only, and first see what would happen
  pinnace rollback --registry registry.example.com/fleet --to 41 --cluster factory-01 --cluster ship-7 --key cosign.key --dry-run`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runRollback(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.prefix, "registry", "", "prefix of the fleet: host[:port]/path")
	flags.Int64Var(&opts.to, "to", 0, "publication to go back to, as publish and status number them")
	flags.StringArrayVar(&opts.clusters, "cluster", nil, "this cluster only; may be repeated")
	flags.StringVar(&opts.key, "key", "", "private key to sign with: the one that published")
	flags.StringVar(&opts.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	flags.BoolVar(&opts.allowPrune, "allow-prune", false, "permit removing more than half of what a cluster runs")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "say what would be published and write nothing")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runRollback(ctx context.Context, s *session, opts rollbackOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	switch {
	case opts.prefix == "":
		return usagef("no fleet is named; name its prefix with --registry")
	case opts.to < 1:
		return usagef("no publication is named; name one with --to, such as --to 41")
	case opts.key == "":
		return usagef("no key to sign with; name the one that published with --key")
	}
	registry, err := opts.registry.open(s, opts.prefix)
	if err != nil {
		return err
	}
	signer, err := s.signer(opts.key, opts.passwordFile)
	if err != nil {
		return err
	}
	result, err := publish.Rollback(ctx, registry, publish.RollbackOptions{
		Options: publish.Options{Signer: signer, AllowPrune: opts.allowPrune, DryRun: opts.dryRun}, To: opts.to, Clusters: opts.clusters,
	})
	return s.published(result, err, opts.output)
}

// published prints what a publish or a rollback did, also when targets were refused.
func (s *session) published(result publish.Result, err error, out output) error {
	var refused *publish.RefusedError
	if err != nil && !errors.As(err, &refused) {
		return ofInput(err)
	}
	if printed := out.print(s.Out, publishView(result)); printed != nil {
		return printed
	}
	if refused != nil {
		return err
	}
	s.publishSummary(result)
	return nil
}
