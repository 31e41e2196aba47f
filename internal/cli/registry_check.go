package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/registry/probe"
)

type registryCheckOptions struct {
	registry registryFlags
	output   output
}

type registryCheckResult struct {
	resultMeta
	Registry string          `json:"registry"`
	Findings []probe.Finding `json:"findings"`
}

func newRegistryCheckCommand(s *session) *cobra.Command {
	var opts registryCheckOptions
	cmd := &cobra.Command{
		Use:   "check PREFIX",
		Short: "Find out what a registry can do, and what that means",
		Long: `Find out what a registry can do, by doing it in a scratch repository (pinnace-check/…) below the prefix, and say what
that means: referrers, conditional requests, mounts, uploads and downloads that go on, incomplete indexes, untagged
manifests, deletion, catalog. What was written is deleted again where the registry allows it.`,
		Example: `  # Before a site is set up
  pinnace registry check registry.site.example/fleet

  # As data
  pinnace registry check 127.0.0.1:5000/fleet --plain-http -o json`,
		Args: arguments(1, 1, "a prefix: host[:port]/path"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRegistryCheck(cmd.Context(), s, args[0], opts)
		},
	}
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runRegistryCheck(ctx context.Context, s *session, prefix string, opts registryCheckOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	registry, err := opts.registry.open(s, prefix)
	if err != nil {
		return err
	}
	findings, err := probe.Run(ctx, registry)
	if err != nil {
		return err
	}
	v := view{
		data:    registryCheckResult{newResultMeta("RegistryCheck"), prefix, findings},
		columns: columns("FEATURE", "ANSWER", "MEANS", "+DETAIL"),
	}
	for _, finding := range findings {
		v.rows = append(v.rows, []string{finding.Feature, string(finding.Answer), finding.Means, finding.Detail})
		v.names = append(v.names, finding.Feature+"="+string(finding.Answer))
	}
	return opts.output.print(s.Out, v)
}
