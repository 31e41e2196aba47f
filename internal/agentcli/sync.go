package agentcli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent"
)

func newSyncCommand(s *session) *cobra.Command {
	var file, output string
	var once bool
	cmd := &cobra.Command{
		Use:   "sync [BUNDLE...]",
		Short: "Have the running agent look now, or bring the cluster to its target once without one",
		Long: `Have the agent that runs here look at the registry now, and try again at once what failed: the bundles that are
named, or all. It comes back as soon as the agent knows; pinnace-agent status says what came of it.

With --once, and no agent running: look at the registry once, verify, apply, wait until every bundle is ready or has
failed, report, and end. The exit code says what happened: 0 everything is ready, 1 something is not ready, 3 some
bundles failed, 4 the registry refused the credentials, 5 there is no target, 6 the target was refused, 7 content is
damaged, 9 the registry was not reached. When the newest target is not taken, the one before stays in force.`,
		Example: `  pinnace-agent sync

  # Without a running agent, for scripts
  pinnace-agent sync --once --config agent.yaml -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usagef("-o %q is not known; use table or json", output)
			}
			if once && len(args) > 0 {
				return usagef("sync --once brings the whole cluster to its target; name no bundles")
			}
			if once {
				return s.sync(cmd.Context(), file, output)
			}
			if err := s.ask(cmd.Context(), file, http.MethodPost, "/v1/sync", args, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintln(s.Out, "the agent looks now")
			return err
		},
	}
	adminFlag(cmd, &file)
	cmd.Flags().BoolVar(&once, "once", false, "bring the cluster to its target once, and end")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json, with --once")
	return cmd
}

func (s *session) sync(ctx context.Context, file, output string) error {
	setup, err := s.setUp(ctx, file, false)
	if err != nil {
		return err
	}
	result, err := setup.agent.Sync(ctx)
	err = errors.Join(err, setup.close())
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	if err := s.print(result, output); err != nil {
		return err
	}
	return verdict(result)
}

// verdict turns what a sync found into the error, and so the exit code, that says so.
func verdict(result agent.Result) error {
	if result.Problem != nil {
		return fmt.Errorf("the newest target was not taken: %w", result.Problem)
	}
	var failed, unready []string
	for _, bundle := range result.Report.Bundles {
		switch bundle.State {
		case v1alpha1.StateReady:
		case v1alpha1.StateFailed, v1alpha1.StateRefused:
			failed = append(failed, bundle.Name)
		default:
			unready = append(unready, bundle.Name)
		}
	}
	all := len(result.Report.Bundles)
	switch {
	case len(failed) == 1 && all == 1:
		return exitcode.With(exitcode.No, fmt.Errorf("bundle %s failed", failed[0]))
	case len(failed) > 0:
		return exitcode.With(exitcode.Partial, fmt.Errorf("%d of %d bundles failed: %s", len(failed), all, strings.Join(failed, ", ")))
	case len(unready) > 0:
		return exitcode.With(exitcode.No, fmt.Errorf("%d of %d bundles are not ready: %s", len(unready), all, strings.Join(unready, ", ")))
	}
	return nil
}

func (s *session) print(result agent.Result, output string) error {
	if output == "json" {
		return printJSON(s.Out, result.Report)
	}
	table := tabwriter.NewWriter(s.Out, 0, 0, 3, ' ', 0)
	lines := []string{"BUNDLE\tSTATE\tOBJECTS\tDIGEST\tMESSAGE"}
	for _, bundle := range result.Report.Bundles {
		_, hash, _ := strings.Cut(bundle.Digest, ":")
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d/%d\t%s\t%s", bundle.Name, bundle.State, bundle.Ready, bundle.Objects,
			hash[:min(12, len(hash))], cmp.Or(bundle.Message, "-")))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(table, line); err != nil {
			return err
		}
	}
	return table.Flush()
}
