package agentcli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func newRunCommand(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep the cluster as its target says until interrupted",
		Long: `Enforce the last good target from disk, then poll the registry, receive its notifications, verify, apply, correct
drift and report, until SIGINT or SIGTERM.`,
		Example: `  pinnace-agent run --config agent.yaml

  # With logs for machines
  pinnace-agent run --config /etc/pinnace/agent.yaml --log-format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(file); err != nil {
				return err
			}
			return s.run(cmd.Context(), file)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func (s *session) run(ctx context.Context, file string) error {
	setup, err := s.setUp(ctx, file, true)
	if err != nil && ctx.Err() != nil {
		return nil //nolint:nilerr // interrupted while standing by, which is how it ends
	}
	if err != nil {
		return err
	}
	version, _ := s.build()
	setup.log.Info("agent starts", "version", version, "fleet", setup.spec.Fleet, "cluster", setup.spec.Cluster,
		"registry", setup.spec.Registries[0].Prefix, "state", setup.spec.StateDir)
	work, cancel := context.WithCancelCause(ctx)
	endpoints, err := serve(setup, cancel)
	if err != nil {
		cancel(nil)
		return errors.Join(err, setup.close())
	}
	err = setup.agent.Run(work)
	if cause := context.Cause(work); ctx.Err() == nil && cause != nil {
		err = cause // an endpoint failed
	}
	cancel(nil)
	if ctx.Err() != nil {
		err = nil // interrupted, which is how it ends
	}
	err = errors.Join(err, endpoints.close(), setup.close())
	if err == nil {
		setup.log.Info("agent ends")
	}
	return err
}
