package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target"
)

type targetOptions struct {
	cluster string
	bundle  string
	fleet   fleetFlags
	output  output
}

type targetResult struct {
	resultMeta
	Fleet    string          `json:"fleet"`
	Clusters []targetCluster `json:"clusters"`
}

type targetCluster struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Bundles []targetBundle    `json:"bundles"`
}

type targetBundle struct {
	Name      string            `json:"name"`
	Selected  bool              `json:"selected"`
	Why       string            `json:"why"`
	Overrides []string          `json:"overrides,omitempty"`
	Source    string            `json:"source"`
	Path      string            `json:"path,omitempty"`
	Namespace string            `json:"namespace,omitempty"`
	DependsOn []string          `json:"dependsOn,omitempty"`
	Kustomize string            `json:"kustomize,omitempty"`
	Overlays  []string          `json:"overlays,omitempty"`
	Values    v1alpha1.Values   `json:"values,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
}

func newTargetCommand(s *session) *cobra.Command {
	var opts targetOptions
	cmd := &cobra.Command{
		Use:   "target [CLUSTER]",
		Short: "Show which cluster would get which bundle, and why",
		Long: `Show what each cluster, or one of them, would get from the fleet repository as it stands: which bundles, by which
rule, with which overrides; and why it does not get the others. Nothing is built and no registry is read.

With -o json or yaml the values and variables are shown as the cluster would get them.`,
		Example: `  # The whole fleet
  pinnace target --fleet fleet

  # One cluster, with everything it would get
  pinnace target factory-01 --fleet fleet -o yaml`,
		Args: arguments(0, 1, "at most one cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.cluster = args[0]
			}
			return runTarget(cmd.Context(), s, opts)
		},
	}
	opts.fleet.register(cmd)
	cmd.Flags().StringVar(&opts.bundle, "bundle", "", "this bundle only")
	opts.output.register(cmd)
	return cmd
}

func runTarget(ctx context.Context, s *session, opts targetOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	from, err := opts.fleet.options()
	if err != nil {
		return err
	}
	loaded, err := publish.Load(ctx, from)
	if err != nil {
		return ofInput(err)
	}
	plans, err := loaded.Fleet.Plan()
	if err != nil {
		return err
	}
	result := targetResult{resultMeta: newResultMeta("TargetList"), Fleet: loaded.Fleet.Name, Clusters: []targetCluster{}}
	bundles := 0
	for _, plan := range plans {
		if opts.cluster != "" && plan.Cluster.Metadata.Name != opts.cluster {
			continue
		}
		cluster := planned(plan, opts.bundle)
		bundles += len(cluster.Bundles)
		result.Clusters = append(result.Clusters, cluster)
	}
	if len(result.Clusters) == 0 {
		return codef(exitcode.NotFound, "cluster %q is not in the inventory of %s; pinnace target --fleet %s lists all", opts.cluster, opts.fleet.fleet, opts.fleet.fleet)
	}
	if opts.bundle != "" && bundles == 0 {
		return codef(exitcode.NotFound, "bundle %q is in no source of %s; pinnace target --fleet %s lists all", opts.bundle, opts.fleet.fleet, opts.fleet.fleet)
	}
	return opts.output.print(s.Out, targetView(result))
}

// planned is one cluster's plan as data, of one bundle when it is named.
func planned(plan target.ClusterPlan, bundle string) targetCluster {
	cluster := targetCluster{Name: plan.Cluster.Metadata.Name, Labels: plan.Cluster.Metadata.Labels, Bundles: []targetBundle{}}
	for _, a := range plan.Assignments {
		if bundle != "" && a.Bundle.Metadata.Name != bundle {
			continue
		}
		cluster.Bundles = append(cluster.Bundles, targetBundle{
			Name: a.Bundle.Metadata.Name, Selected: a.Selected, Why: a.Why, Overrides: a.Overrides,
			Source: a.Bundle.Source.Name, Path: a.Bundle.Source.Path,
			Namespace: a.Namespace, DependsOn: a.DependsOn, Kustomize: a.Kustomize, Overlays: a.Overlays, Values: a.Values, Variables: a.Variables,
		})
	}
	return cluster
}

func targetView(result targetResult) view {
	v := view{
		data:    result,
		columns: columns("CLUSTER", "BUNDLE", "GETS", "WHY", "OVERRIDES", "+NAMESPACE", "+DEPENDS ON", "+SOURCE"),
	}
	for _, cluster := range result.Clusters {
		for _, bundle := range cluster.Bundles {
			gets := "no"
			if bundle.Selected {
				gets = "yes"
				v.names = append(v.names, cluster.Name+"/"+bundle.Name)
			}
			v.rows = append(v.rows, []string{
				cluster.Name, bundle.Name, gets, bundle.Why, strings.Join(bundle.Overrides, ", "),
				bundle.Namespace, strings.Join(bundle.DependsOn, ","), fmt.Sprintf("%s: %s", bundle.Source, bundle.Path),
			})
		}
	}
	return v
}
