package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/publish"
)

type deployOptions struct {
	bundle   string
	cluster  string
	dryRun   bool
	live     clusterFlags
	fleet    fleetFlags
	registry registryFlags
}

func newDeployCommand(s *session) *cobra.Command {
	var opts deployOptions
	cmd := &cobra.Command{
		Use:   "deploy BUNDLE --cluster CLUSTER --dry-run",
		Short: "Show the objects of a bundle as one cluster would get them",
		Long: `Print the objects that a cluster would get of a bundle from the fleet repository as it stands, as YAML: after
overrides, with the cluster's variables replaced, and charts rendered with the cluster's values. Nothing published is
read, and no cluster.

With --kubeconfig or --context its API server is asked instead what would become of each object (a server-side dry run,
with validation, defaults and webhooks), and the differences to what is there are printed, secrets masked. Nothing is
changed. It exits with 0 when nothing would change, with 1 when something would, and with 3 when objects are refused.

It is a rehearsal only, so --dry-run must be given: agents deploy, and only what is published. A chart's random values
are shown as "(made anew each time)". Secrets are printed as they stand in the repository.`,
		Example: `  # What the ship runs
  pinnace deploy sensors --cluster ship-7 --dry-run --fleet fleet

  # What would it change there, and would the API server take it?
  pinnace deploy sensors --cluster ship-7 --dry-run --kubeconfig ship-7.kubeconfig`,
		Args: arguments(1, 1, "one bundle"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.bundle = args[0]
			return runDeploy(cmd.Context(), s, opts)
		},
	}
	cmd.Flags().StringVar(&opts.cluster, "cluster", "", "the cluster")
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "print objects; the only thing that deploy does")
	cmd.Flags().StringVar(&opts.live.kubeconfig, "kubeconfig", "", "compare with the cluster of this kubeconfig, by a server-side dry run")
	cmd.Flags().StringVar(&opts.live.context, "context", "", "context of the kubeconfig")
	opts.fleet.register(cmd)
	opts.registry.register(cmd)
	return cmd
}

func runDeploy(ctx context.Context, s *session, opts deployOptions) error {
	switch {
	case !opts.dryRun:
		return usagef("deploy only rehearses; pass --dry-run, and deploy with: pinnace publish")
	case opts.cluster == "":
		return usagef("no cluster is named; name one with --cluster")
	}
	from, err := opts.fleet.options()
	if err != nil {
		return err
	}
	from.OCI = opts.registry.options(s)
	deployment, err := publish.Render(ctx, from, opts.cluster, opts.bundle)
	if err != nil {
		return ofInput(err)
	}
	if opts.live.given() {
		config, err := opts.live.config()
		if err != nil {
			return err
		}
		return s.rehearse(ctx, config, deployment)
	}
	if err := s.printf("%s", deploymentHead(deployment)); err != nil {
		return err
	}
	return s.printObjects(deployment.Objects)
}

// deploymentHead says in comments what the objects don't.
func deploymentHead(deployment publish.Deployment) string {
	bundle := deployment.Bundle
	how := "applied"
	if bundle.Method == v1alpha1.MethodRelease {
		how = "Helm release " + bundle.Release.Name
	}
	head := fmt.Sprintf("# %s on %s: %s; objects without a namespace go to %s\n", bundle.Name, deployment.Cluster, how, bundle.Namespace)
	if len(bundle.DependsOn) > 0 {
		head += "# after " + strings.Join(bundle.DependsOn, ", ") + "\n"
	}
	return head
}
