package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/publish"
)

type pruneOptions struct {
	registry registryFlags
	prefix   string
	policy   string
	key      string
	keep     int
	dryRun   bool
	jobs     int
	output   output
}

type pruneResult struct {
	resultMeta
	publish.PruneResult
}

func newPruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove old publications of a fleet from its registry",
		Long: `Remove publications beyond the last ones, with the targets and the bundles' artifacts that only they name, and the
signatures of these. Every publish does it already; this is for registries where it could not, and to keep fewer.

What a cluster may still run stays: whatever a kept publication names, and the last targets of clusters that left the
fleet, with their bundles, until they expire. Nothing that Pinnace didn't publish is touched. Registries free the space
when they collect garbage.`,
		Example: `  # What would go if five were kept?
  pinnace prune --registry registry.example.com/fleet --key cosign.pub --keep 5 --dry-run

  # As the fleet says
  pinnace prune --registry registry.example.com/fleet --key cosign.pub`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runPrune(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.prefix, "registry", "", "prefix of the fleet: host[:port]/path")
	flags.StringVar(&opts.policy, "policy", "", "trust policy that publications must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed publications")
	flags.IntVar(&opts.keep, "keep", 0, "how many publications stay; what the fleet says when 0")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "say what would be removed and remove nothing")
	flags.IntVar(&opts.jobs, "jobs", 0, "requests at the same time; four for each processor when 0")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runPrune(ctx context.Context, s *session, opts pruneOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	switch {
	case opts.prefix == "":
		return usagef("no fleet is named; name its prefix with --registry")
	case opts.keep < 0:
		return usagef("--keep %d: at least one publication stays", opts.keep)
	}
	registry, err := opts.registry.open(s, opts.prefix)
	if err != nil {
		return err
	}
	verifier, err := loadVerifier(s, opts.policy, opts.key)
	if err != nil {
		return err
	}
	progress := newProgress(s)
	result, err := publish.Prune(ctx, registry, publish.PruneOptions{
		Verifier: verifier, Keep: opts.keep, DryRun: opts.dryRun, Jobs: opts.jobs, Progress: progress.step,
	})
	progress.end()
	if errors.Is(err, oci.ErrUnsupported) {
		return fmt.Errorf("%w; allow deletion in the registry's configuration, or use its own rules of retention for tags gen-*, pub-* and sha-*", err)
	}
	if err != nil {
		return err
	}
	if err := opts.output.print(s.Out, pruneView(result)); err != nil {
		return err
	}
	done := "removed"
	if result.DryRun {
		done = "would remove"
	}
	s.message(markDone, "%s: %s", done, pruned(result))
	return nil
}

func pruneView(result publish.PruneResult) view {
	v := view{data: pruneResult{newResultMeta("PruneResult"), result}, columns: columns("NAME", "DIGEST")}
	for _, publication := range result.Publications {
		name := fmt.Sprintf("publication/%d", publication)
		v.rows, v.names = append(v.rows, []string{name, ""}), append(v.names, name)
	}
	for _, bundle := range result.Bundles {
		name := "bundle/" + bundle.Name
		v.rows, v.names = append(v.rows, []string{name, shortDigest(bundle.Digest)}), append(v.names, name)
	}
	return v
}
