package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target/status"
)

type statusOptions struct {
	cluster  string
	fleet    string
	prefix   string
	policy   string
	key      string
	bundles  bool
	wait     time.Duration
	interval time.Duration
	registry registryFlags
	output   output
}

type statusResult struct {
	resultMeta
	status.Summary
}

type clusterStatusResult struct {
	resultMeta
	status.Cluster
}

func newStatusCommand(s *session) *cobra.Command {
	opts := statusOptions{}
	cmd := &cobra.Command{
		Use:   "status [CLUSTER]",
		Short: "Show what the clusters run",
		Long: `Show what the agents report of their clusters, worst first: by cluster, by bundle with --bundles, or everything
about one cluster. A report counts when the cluster's key from the inventory signed it and when it speaks of the
target that was published last.

It exits with 0 when everything is ready and with 1 when something is not. With --wait it asks again until all is
ready, and exits with 8 when the time is over.`,
		Example: `  # The fleet, by cluster
  pinnace status --registry registry.example.com/fleet --key cosign.pub

  # In CI, after a publish
  pinnace status --fleet . --key cosign.pub --wait 10m`,
		Args: arguments(0, 1, "at most one cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.cluster = args[0]
			}
			return runStatus(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.prefix, "registry", "", "the fleet's prefix: host[:port]/path; spec.registry of --fleet when empty")
	flags.StringVar(&opts.fleet, "fleet", ".", "folder with the fleet's pinnace.yaml")
	flags.StringVar(&opts.policy, "policy", "", "trust policy that the fleet index must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed the fleet index")
	flags.BoolVar(&opts.bundles, "bundles", false, "show bundles instead of clusters")
	flags.DurationVar(&opts.wait, "wait", 0, "wait until everything is ready, at most so long")
	flags.DurationVar(&opts.interval, "interval", 2*time.Second, "pause between two looks with --wait")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runStatus(ctx context.Context, s *session, opts statusOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	if opts.cluster != "" && opts.bundles {
		return usagef("--bundles shows the whole fleet; leave it out, or leave out %s", opts.cluster)
	}
	if opts.wait < 0 || opts.interval <= 0 {
		return usagef("--wait and --interval are durations such as 10m and 2s")
	}
	prefix, err := fleetPrefix(opts.prefix, opts.fleet)
	if err != nil {
		return err
	}
	verifier, err := loadVerifier(s, opts.policy, opts.key)
	if err != nil {
		return err
	}
	registry, err := opts.registry.open(s, prefix)
	if err != nil {
		return err
	}
	summary, err := awaitReady(ctx, s, opts, registry, verifier)
	if err != nil {
		return err
	}
	shown, ready, verdict, err := statusView(summary, opts)
	if err != nil {
		return err
	}
	if err := opts.output.print(s.Out, shown); err != nil {
		return err
	}
	switch {
	case ready:
		s.message(markDone, "%s", verdict)
		return nil
	case opts.wait > 0:
		return codef(exitcode.TimedOut, "after %s: %s", opts.wait, verdict)
	}
	return codef(exitcode.No, "%s", verdict)
}

// awaitReady reads the status, again and again until all is ready when asked to wait.
func awaitReady(ctx context.Context, s *session, opts statusOptions, registry oci.Registry, verifier *signing.Verifier) (status.Summary, error) {
	deadline := time.Now().Add(opts.wait)
	verdict := ""
	for {
		index, _, err := publish.ReadIndex(ctx, registry, verifier)
		if errors.Is(err, oci.ErrNotFound) {
			return status.Summary{}, fmt.Errorf("%s holds no fleet: %w; publish one with: pinnace publish", registry, err)
		}
		if err != nil {
			return status.Summary{}, err
		}
		summary, err := status.Read(ctx, registry, index)
		if err != nil {
			return status.Summary{}, err
		}
		if readyFor(summary, opts.cluster) || !time.Now().Add(opts.interval).Before(deadline) {
			return summary, nil
		}
		if summary.Verdict != verdict {
			verdict = summary.Verdict
			s.message(markWaiting, "%s", verdict)
		}
		select {
		case <-ctx.Done():
			return status.Summary{}, ctx.Err()
		case <-time.After(opts.interval):
		}
	}
}

// readyFor tells whether one cluster is ready, or all when none is named. An unknown one needs no waiting for.
func readyFor(summary status.Summary, cluster string) bool {
	if cluster == "" {
		return summary.Ready
	}
	for _, candidate := range summary.Clusters {
		if candidate.Name == cluster {
			return candidate.Verdict == status.Ready
		}
	}
	return true
}

// fleetPrefix is the prefix that was named, or the one in the fleet's document.
func fleetPrefix(prefix, fleet string) (string, error) {
	if prefix != "" {
		return prefix, nil
	}
	file := filepath.Join(fleet, publish.FleetFile)
	data, err := readSmallFile(file)
	if err != nil {
		return "", fmt.Errorf("no --registry is given, and the fleet's document cannot be read: %w", err)
	}
	document, place, err := document.Decode[v1alpha1.Fleet](file, data, v1alpha1.KindFleet)
	if err != nil {
		return "", err
	}
	if document.Spec.Registry == "" {
		return "", place.Errorf("spec.registry", "no registry is named; add it, or pass --registry")
	}
	return document.Spec.Registry, nil
}

// statusView chooses between fleet, bundles and one cluster.
func statusView(summary status.Summary, opts statusOptions) (shown view, ready bool, verdict string, err error) {
	if opts.cluster == "" {
		if opts.bundles {
			return bundlesView(summary), summary.Ready, summary.Verdict, nil
		}
		return clustersView(summary), summary.Ready, summary.Verdict, nil
	}
	for _, cluster := range summary.Clusters {
		if cluster.Name != opts.cluster {
			continue
		}
		verdict = fmt.Sprintf("cluster %s: %s", cluster.Name, cluster.Verdict)
		if cluster.Message != "" {
			verdict += ": " + cluster.Message
		}
		return clusterView(cluster), cluster.Verdict == status.Ready, verdict, nil
	}
	return view{}, false, "", codef(exitcode.NotFound, "cluster %q is not in the fleet %s; pinnace status lists all", opts.cluster, summary.Fleet)
}

func clustersView(summary status.Summary) view {
	v := view{
		data:    statusResult{newResultMeta("Status"), summary},
		columns: columns("CLUSTER", "STATE", "BUNDLES", "GENERATION", "REPORTED", "MESSAGE", "+REASON", "+KUBERNETES", "+AGENT"),
	}
	for _, cluster := range summary.Clusters {
		v.rows = append(v.rows, []string{
			cluster.Name, string(cluster.Verdict), fmt.Sprintf("%d/%d", cluster.ReadyBundles, cluster.AllBundles),
			generations(cluster), reported(cluster), cluster.Message, cluster.Reason, cluster.Kubernetes, cluster.Agent,
		})
		v.names = append(v.names, "cluster/"+cluster.Name)
	}
	return v
}

func bundlesView(summary status.Summary) view {
	v := view{
		data:    statusResult{newResultMeta("Status"), summary},
		columns: columns("BUNDLE", "READY", "MESSAGE"),
	}
	for _, bundle := range summary.Bundles {
		v.rows = append(v.rows, []string{bundle.Name, fmt.Sprintf("%d/%d", bundle.Ready, bundle.Clusters), bundle.Message})
		v.names = append(v.names, "bundle/"+bundle.Name)
	}
	return v
}

func clusterView(cluster status.Cluster) view {
	v := view{
		data:    clusterStatusResult{newResultMeta("ClusterStatus"), cluster},
		columns: columns("BUNDLE", "STATE", "OBJECTS", "DIGEST", "SINCE", "MESSAGE"),
	}
	for _, bundle := range cluster.Bundles {
		v.rows = append(v.rows, []string{
			bundle.Name, string(bundle.State), fmt.Sprintf("%d/%d", bundle.Ready, bundle.Objects), shortDigest(bundle.Digest),
			ago(bundle.Since.Time), bundle.Message,
		})
		v.names = append(v.names, "bundle/"+bundle.Name)
	}
	return v
}

// generations shows the published one, and the reported one where it differs.
func generations(cluster status.Cluster) string {
	published := strconv.FormatInt(cluster.Generation, 10)
	if cluster.ReportedGeneration == 0 || cluster.ReportedGeneration == cluster.Generation {
		return published
	}
	return fmt.Sprintf("%d→%s", cluster.ReportedGeneration, published)
}

func reported(cluster status.Cluster) string {
	if cluster.ReportedAt.IsZero() {
		return "never"
	}
	return ago(cluster.ReportedAt.Time) + " ago"
}

// ago is a duration in kubectl's short form.
func ago(then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(time.Since(then), 0))
}
