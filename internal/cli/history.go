package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/publish"
)

type historyOptions struct {
	registry registryFlags
	prefix   string
	policy   string
	key      string
	output   output
}

type historyResult struct {
	resultMeta
	Publications []publish.Publication `json:"publications"`
}

func newHistoryCommand(s *session) *cobra.Command {
	var opts historyOptions
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the publications of a fleet that can be gone back to",
		Long: `List the publications that the registry still has, the newest first: when they were made, from which commits, and
how many clusters got something else. pinnace rollback goes back to one of them. As many are kept as the fleet's
spec.history says, 10 without it.`,
		Example: `  # What can be gone back to
  pinnace history --registry registry.example.com/fleet --key cosign.pub

  # The commits of each, as data
  pinnace history --registry registry.example.com/fleet --key cosign.pub -o yaml`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runHistory(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.prefix, "registry", "", "prefix of the fleet: host[:port]/path")
	flags.StringVar(&opts.policy, "policy", "", "trust policy that publications must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed publications")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runHistory(ctx context.Context, s *session, opts historyOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	if opts.prefix == "" {
		return usagef("no fleet is named; name its prefix with --registry")
	}
	registry, err := opts.registry.open(s, opts.prefix)
	if err != nil {
		return err
	}
	verifier, err := loadVerifier(s, opts.policy, opts.key)
	if err != nil {
		return err
	}
	list, err := publish.History(ctx, registry, verifier)
	if err != nil {
		return err
	}
	return opts.output.print(s.Out, historyView(list))
}

func historyView(list []publish.Publication) view {
	v := view{
		data:    historyResult{newResultMeta("HistoryResult"), list},
		columns: columns("PUBLICATION", "ISSUED", "CLUSTERS", "CHANGED", "FROM"),
	}
	for i, publication := range list {
		changed := fmt.Sprint(publication.Changed)
		if i == len(list)-1 {
			changed = ""
		}
		name := fmt.Sprint(publication.Publication)
		v.names = append(v.names, name)
		if publication.Current {
			name += " (current)"
		}
		var from []string
		for _, source := range publication.Sources {
			if source.Commit != "" {
				from = append(from, source.Name+"@"+shortDigest(source.Commit))
			}
		}
		v.rows = append(v.rows, []string{
			name, publication.IssuedAt.UTC().Format(time.RFC3339), fmt.Sprint(publication.Clusters), changed, someOf(from),
		})
	}
	if len(list) == 0 {
		v.footer = "no publication"
	}
	return v
}

// pruned says in one line what was removed.
func pruned(result publish.PruneResult) string {
	parts := []string{
		count(len(result.Publications), "old publication"), count(result.Targets, "target"), count(len(result.Bundles), "bundle artifact"),
	}
	return strings.Join(parts, ", ")
}
