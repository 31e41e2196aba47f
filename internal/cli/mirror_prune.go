package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

type mirrorPruneOptions struct {
	keep     int
	dryRun   bool
	registry registryFlags
	output   output
}

type mirrorPruneResult struct {
	resultMeta
	DryRun bool            `json:"dryRun"`
	Pruned []mirror.Pruned `json:"pruned"`
}

func newMirrorPruneCommand(s *session) *cobra.Command {
	var opts mirrorPruneOptions
	cmd := &cobra.Command{
		Use:   "prune REGISTRY",
		Short: "Delete at a receiver what its clusters need no more",
		Long: `Delete at a receiver older generations of targets and publications, bundles that no kept target names, images that no
kept bundle names, and their signatures. The current target of every cluster is always kept, with all that it names.

A registry frees the space some time after: the built-in one by itself, or with pinnace registry gc.`,
		Example: `  # What would go
  pinnace mirror prune registry.site.example/fleet --keep 3 --dry-run

  # Do it
  pinnace mirror prune registry.site.example/fleet --keep 3`,
		Args: arguments(1, 1, "the receiver's prefix"),
		RunE: func(cmd *cobra.Command, args []string) error { return runMirrorPrune(cmd.Context(), s, args[0], opts) },
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.keep, "keep", 3, "generations of each target to keep")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "show what would be deleted, and delete nothing")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorPrune(ctx context.Context, s *session, prefix string, opts mirrorPruneOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	if opts.keep < 1 {
		return usagef("--keep %d: at least the newest generation is kept", opts.keep)
	}
	registry, err := opts.registry.open(s, prefix)
	if err != nil {
		return err
	}
	pruned, err := mirror.Prune(ctx, registry, opts.keep, opts.dryRun)
	if err != nil {
		return err
	}
	v := view{
		data:    mirrorPruneResult{newResultMeta("MirrorPrune"), opts.dryRun, pruned},
		columns: columns("REPOSITORY", "DIGEST", "TAGS", "MESSAGE"),
	}
	failed := 0
	for _, one := range pruned {
		if one.Error != "" {
			failed++
		}
		v.rows = append(v.rows, []string{one.Repository, shortDigest(one.Digest.String()), strings.Join(one.Tags, ","), one.Error})
		v.names = append(v.names, one.Repository+"@"+one.Digest.String())
	}
	if err := opts.output.print(s.Out, v); err != nil {
		return err
	}
	if failed > 0 {
		return codef(exitcode.Partial, "%d of %s could not be deleted", failed, count(len(pruned), "manifest"))
	}
	verb := "deleted"
	if opts.dryRun {
		verb = "would delete"
	}
	s.message(markDone, "%s %s; the newest %s of each target", verb, count(len(pruned), "manifest"), fmt.Sprintf("%d stay", opts.keep))
	return nil
}
