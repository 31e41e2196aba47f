package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/target/status"
)

type waitOptions struct {
	viewFlags
	filterFlags
	policy   string
	key      string
	goal     string
	timeout  time.Duration
	interval time.Duration
}

// goals are what can be waited for.
var goals = map[string]func(status.Summary) bool{
	"ready": func(summary status.Summary) bool { return summary.Ready },
	// Everybody took the newest target, whatever came of it.
	"seen": func(summary status.Summary) bool {
		return len(summary.Clusters) > 0 && summary.Counts[status.Unseen] == 0 && summary.Counts[status.Updating] == 0
	},
}

func newWaitCommand(s *session) *cobra.Command {
	opts := waitOptions{}
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until clusters are ready",
		Long: `Wait until every cluster that is chosen is ready (--for ready), or until every one of them has reported what
became of the newest target, good or bad (--for seen). Meanwhile, what changes is told on stderr.

It exits with 0 when it is so, and with 8 when the time is over; the reason stands in the error.`,
		Example: `  # In CI, after a publish
  pinnace wait --fleet . --key cosign.pub --for ready --timeout 10m

  # The canaries only
  pinnace wait --registry registry.example.com/fleet --key cosign.pub --for ready -l ring=canary`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runWait(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	opts.viewFlags.register(cmd)
	opts.filterFlags.register(cmd)
	flags.StringVar(&opts.policy, "policy", "", "trust policy that the fleet index must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed the fleet index")
	flags.StringVar(&opts.goal, "for", "ready", "what to wait for: ready or seen")
	flags.DurationVar(&opts.timeout, "timeout", 10*time.Minute, "how long to wait")
	flags.DurationVar(&opts.interval, "interval", 2*time.Second, "pause between two looks")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"ready", "seen"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runWait(ctx context.Context, s *session, opts waitOptions) error {
	reached, known := goals[opts.goal]
	if !known {
		return usagef("--for %q is not known; use ready or seen", opts.goal)
	}
	if opts.timeout <= 0 || opts.interval <= 0 {
		return usagef("--timeout and --interval are durations such as 10m and 2s")
	}
	filter, err := opts.filter()
	if err != nil {
		return err
	}
	verifier, err := loadVerifier(s, opts.policy, opts.key)
	if err != nil {
		return err
	}
	view, err := opts.open(s, verifier)
	if err != nil {
		return err
	}
	var summary status.Summary
	err = until(ctx, s, opts.timeout, opts.interval, func() (bool, string, error) {
		var err error
		summary, err = view.look(ctx, filter)
		return err == nil && reached(summary), summary.Verdict, err
	})
	switch {
	case err != nil:
		return err
	case len(summary.Clusters) == 0:
		return codef(exitcode.NotFound, "no cluster of the fleet %s is chosen; pinnace status lists all", summary.Fleet)
	case !reached(summary):
		return codef(exitcode.TimedOut, "after %s: %s", opts.timeout, summary.Verdict)
	}
	s.message(markDone, "%s", summary.Verdict)
	return nil
}
