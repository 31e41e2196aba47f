package agentcli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/agent"
)

func newSuspendCommand(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "suspend [BUNDLE...]",
		Short: "Stop all work on bundles, also over restarts, until they are resumed",
		Long: `Have the agent that runs here leave those bundles alone, or all of them when none is named: nothing is applied or
removed and drift is not corrected, also after a restart. Their health is still reported, and new targets are still
fetched and verified. What was begun is finished. kubectl get bundledeployments and pinnace status show it.

Without a running agent it is noted in the state folder, for the next one.`,
		Example: `  # While somebody works on it by hand
  pinnace-agent suspend shop

  # Everything
  pinnace-agent suspend --config agent.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			offline := func(known agent.Suspended) agent.Suspended { return known.Suspend(time.Now(), args...) }
			return s.change(cmd.Context(), file, "suspend", "suspended", args, offline)
		},
	}
	adminFlag(cmd, &file)
	return cmd
}

func newResumeCommand(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "resume [BUNDLE...]",
		Short: "Take up work on suspended bundles again",
		Long: `Have the agent that runs here bring those bundles, or all when none is named, to what the target says by now. Drift that
came up meanwhile is corrected.`,
		Example: `  pinnace-agent resume shop

  # Everything
  pinnace-agent resume --config agent.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			offline := func(known agent.Suspended) agent.Suspended { return known.Resume(args...) }
			return s.change(cmd.Context(), file, "resume", "resumed", args, offline)
		},
	}
	adminFlag(cmd, &file)
	return cmd
}

// change tells the running agent, or the state folder where none runs.
func (s *session) change(ctx context.Context, file, verb, done string, bundles []string, offline func(agent.Suspended) agent.Suspended) error {
	err := s.ask(ctx, file, http.MethodPost, "/v1/"+verb, bundles, nil)
	where := ""
	if errors.Is(err, errNoAgent) {
		where = "; no agent is running, the next one will find it in the state folder"
		err = changeState(file, offline)
	}
	if err != nil {
		return err
	}
	what := "all bundles"
	if len(bundles) > 0 {
		what = strings.Join(bundles, ", ")
	}
	_, err = fmt.Fprintf(s.Out, "%s %s%s\n", what, done, where)
	return err
}

func changeState(file string, change func(agent.Suspended) agent.Suspended) error {
	spec, err := loadConfig(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(spec.StateDir); err != nil {
		return usagef("no agent ever ran with %s: %w", file, err)
	}
	state, err := agent.OpenState(spec.StateDir)
	if err != nil {
		return err
	}
	suspended, err := state.Suspended()
	if err == nil {
		err = state.Suspend(change(suspended))
	}
	return errors.Join(err, state.Close())
}
