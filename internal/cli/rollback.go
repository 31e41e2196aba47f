package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/publish"
)

type rollbackOptions struct {
	registry registryFlags
	prefix   string
	signFlags
	previous   previousFlags
	to         int64
	clusters   []string
	allowPrune bool
	dryRun     bool
	output     output
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
	flags.Int64Var(&opts.to, "to", 0, "publication to go back to; pinnace history lists them")
	flags.StringArrayVar(&opts.clusters, "cluster", nil, "this cluster only; may be repeated")
	opts.signFlags.register(cmd)
	opts.previous.register(cmd)
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
	case !opts.signFlags.given():
		return usagef("nobody is named to sign; name the key that published with --key, or sign as the identity that did with --keyless")
	}
	registry, err := opts.registry.open(s, opts.prefix)
	if err != nil {
		return err
	}
	signer, err := opts.signFlags.open(ctx, s)
	if err != nil {
		return err
	}
	previousKeys, previousPolicy, err := opts.previous.read(s)
	if err != nil {
		return err
	}
	progress := newProgress(s)
	result, err := publish.Rollback(ctx, registry, publish.RollbackOptions{
		Options: publish.Options{
			Signer: signer, PreviousKeys: previousKeys, PreviousPolicy: previousPolicy, AllowPrune: opts.allowPrune, DryRun: opts.dryRun, Progress: progress.step,
		},
		To: opts.to, Clusters: opts.clusters,
	})
	progress.end()
	return s.published(result, err, opts.output)
}

// published prints what a publish or a rollback did, also when targets were refused.
func (s *session) published(result publish.Result, err error, out output) error {
	var refused *publish.RefusedError
	if err != nil && !errors.As(err, &refused) {
		return ofInput(err)
	}
	v := publishView(result)
	if out.format != "wide" {
		brief(&v, len(result.Bundles))
	}
	if printed := out.print(s.Out, v); printed != nil {
		return printed
	}
	s.warn(result.Warnings)
	if refused != nil {
		return err
	}
	s.publishSummary(result)
	return s.failedSources(result)
}

// warn says what is otherwise than somebody may expect.
func (s *session) warn(warnings []string) {
	for _, warning := range warnings {
		s.message(markWarning, "%s", warning)
	}
}

// failedSources says which sources could not be read, and ends the command as done in part.
func (s *session) failedSources(result publish.Result) error {
	failed := result.Failed()
	for _, source := range failed {
		had := "the last publish"
		if source.Commit != "" {
			had = shortCommit(source.Commit)
		}
		s.message(markFailed, "%s; clusters keep what they have of it, from %s", source.Failed, had)
	}
	if len(failed) == 0 {
		return nil
	}
	return codef(exitcode.Partial, "%d of %s could not be read; the others are published", len(failed), count(len(result.Sources), "source"))
}

// shortCommit is a commit, or the digest of an OCI source, as people read it.
func shortCommit(commit string) string {
	if strings.HasPrefix(commit, "sha256:") {
		return shortDigest(commit)
	}
	return commit[:min(len(commit), 12)]
}
