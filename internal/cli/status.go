package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target/status"
)

type statusOptions struct {
	viewFlags
	filterFlags
	policy   string
	key      string
	bundles  bool
	all      bool
	watch    bool
	wait     time.Duration
	interval time.Duration
	publish  string // the key's file
	password string
	summary  bool
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
		Long: `Show what the agents report of their clusters: what many have in common that is wrong, then the clusters, worst
first; or the bundles, with --bundles; or everything about one cluster. A report counts when the cluster's key from the
inventory signed it, when it is fresh, and when it speaks of the target that was published last.

States, worst first: Untrusted (not signed by the cluster's key), Refused (the agent refused the newest target), Failed,
Drifted, Unseen (no report lately), Updating, Ready.

Reports that were read before are kept in the user's cache folder: an unchanged one costs one HEAD request.

It exits with 0 when everything that is shown is ready and with 1 when something is not.`,
		Example: `  # The fleet, by cluster
  pinnace status --registry registry.example.com/fleet --key cosign.pub

  # What failed or was refused on ships, again and again
  pinnace status --fleet . --key cosign.pub -l site=ship --state failed,refused --watch

  # Publish the summary, so that dashboards read one thing
  pinnace status --fleet . --key cosign.pub --publish cosign.key`,
		Args: arguments(0, 1, "at most one cluster"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if opts.cluster != "" && opts.cluster != args[0] {
					return usagef("--cluster %s and %s differ; name one", opts.cluster, args[0])
				}
				opts.cluster = args[0]
			}
			return runStatus(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	opts.viewFlags.register(cmd)
	opts.filterFlags.register(cmd)
	flags.StringSliceVar(&opts.states, "state", nil, "clusters in these states only: "+verdictNames())
	flags.StringVar(&opts.policy, "policy", "", "trust policy that the fleet index must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed the fleet index")
	flags.BoolVar(&opts.bundles, "bundles", false, "show bundles instead of clusters")
	flags.BoolVar(&opts.all, "all", false, "show every cluster; otherwise few of many that are ready")
	flags.BoolVarP(&opts.watch, "watch", "w", false, "show it again when it changes, until interrupted")
	flags.DurationVar(&opts.wait, "wait", 0, "wait until everything is ready, at most so long; exits with 8 then")
	flags.DurationVar(&opts.interval, "interval", 2*time.Second, "pause between two looks with --watch and --wait")
	flags.StringVar(&opts.publish, "publish", "", "private key: sign the summary with it and publish it as fleet:status")
	flags.StringVar(&opts.password, "password-file", "", "file with that key's password in its first line; COSIGN_PASSWORD when empty")
	flags.BoolVar(&opts.summary, "summary", false, "read the summary that was published, instead of every cluster's report")
	opts.output.register(cmd)
	return cmd
}

func (o *statusOptions) check() error {
	if err := o.output.check(); err != nil {
		return err
	}
	switch {
	case o.cluster != "" && o.bundles:
		return usagef("--bundles shows the whole fleet; leave it out, or leave out %s", o.cluster)
	case o.wait < 0 || o.interval <= 0:
		return usagef("--wait and --interval are durations such as 10m and 2s")
	case o.publish != "" && (o.cluster != "" || o.bundle != "" || o.selector != "" || len(o.states) > 0):
		return usagef("--publish publishes the whole fleet's status; leave the filters out")
	case o.summary && o.publish != "":
		return usagef("--summary reads what --publish writes; give one")
	}
	return nil
}

func runStatus(ctx context.Context, s *session, opts statusOptions) error {
	if err := opts.check(); err != nil {
		return err
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
	if opts.watch {
		return watchStatus(ctx, s, opts, view, filter)
	}
	summary, err := lookAt(ctx, s, opts, view, filter)
	if err != nil {
		return err
	}
	if err := opts.publishSummary(ctx, s, view, summary); err != nil {
		return err
	}
	shown, ready, verdict, err := statusViews(summary, opts)
	if err != nil {
		return err
	}
	if err := opts.output.printAll(s.Out, shown); err != nil {
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

// lookAt reads the status once, or until all is ready.
func lookAt(ctx context.Context, s *session, opts statusOptions, view *fleetView, filter status.Filter) (status.Summary, error) {
	if opts.summary {
		summary, err := status.Fetch(ctx, view.registry, view.verifier)
		if err != nil {
			return summary, err
		}
		summary.Clusters = chosen(summary.Clusters, filter)
		return summary, nil
	}
	summary := status.Summary{}
	look := func() (bool, string, error) {
		var err error
		summary, err = view.look(ctx, filter)
		return err == nil && readyFor(summary, opts.cluster), summary.Verdict, err
	}
	err := until(ctx, s, opts.wait, opts.interval, look)
	summary.At = metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	return summary, err
}

// chosen filters clusters of a summary.
func chosen(clusters []status.Cluster, filter status.Filter) []status.Cluster {
	var index v1alpha1.FleetIndex
	for _, cluster := range clusters {
		index.Clusters = append(index.Clusters, v1alpha1.IndexCluster{Name: cluster.Name, Labels: cluster.Labels})
	}
	filter.Bundle = "" // the summary doesn't say who has which
	index = filter.Select(index)
	return filter.Judged(slices.DeleteFunc(slices.Clone(clusters), func(c status.Cluster) bool {
		return !slices.ContainsFunc(index.Clusters, func(i v1alpha1.IndexCluster) bool { return i.Name == c.Name })
	}))
}

func (o *statusOptions) publishSummary(ctx context.Context, s *session, view *fleetView, summary status.Summary) error {
	if o.publish == "" {
		return nil
	}
	signer, err := s.openKey(ctx, o.publish, o.password)
	if err != nil {
		return err
	}
	desc, err := status.Push(ctx, view.registry, signer, summary)
	if err != nil {
		return err
	}
	s.message(markDone, "published the status as %s/%s:%s (%s)", view.registry, v1alpha1.RepositoryFleet, status.Tag, shortDigest(desc.Digest.String()))
	return nil
}

// until asks again and again until the answer is yes, or the time is over.
func until(ctx context.Context, s *session, patience, pause time.Duration, ask func() (yes bool, verdict string, err error)) error {
	deadline := time.Now().Add(patience)
	told := ""
	for {
		yes, verdict, err := ask()
		if err != nil || yes || !time.Now().Add(pause).Before(deadline) {
			return err
		}
		if verdict != told {
			told = verdict
			s.message(markWaiting, "%s", verdict)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// watchStatus shows the status again when it changed.
func watchStatus(ctx context.Context, s *session, opts statusOptions, view *fleetView, filter status.Filter) error {
	before := ""
	for {
		summary, err := view.look(ctx, filter)
		if err != nil {
			return err
		}
		shown, _, verdict, err := statusViews(summary, opts)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := opts.output.printAll(&text, shown); err != nil {
			return err
		}
		if verdict != before && opts.output.format != "json" && opts.output.format != "yaml" {
			s.message(markWaiting, "%s  %s", time.Now().Format(time.TimeOnly), verdict)
		}
		if verdict != before {
			before = verdict
			if err := s.printf("%s", text.String()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(opts.interval):
		}
	}
}

// readyFor tells whether one cluster is ready, or all when none is named. An unknown one needs no waiting for.
func readyFor(summary status.Summary, cluster string) bool {
	if cluster == "" || len(summary.Clusters) > 0 {
		return summary.Ready
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

// statusViews chooses between fleet, bundles and one cluster.
func statusViews(summary status.Summary, opts statusOptions) (shown []view, ready bool, verdict string, err error) {
	if opts.cluster == "" {
		if opts.bundles {
			return []view{bundlesView(summary)}, summary.Ready, summary.Verdict, nil
		}
		clusters := clustersView(summary)
		if !opts.all && opts.output.format == "table" {
			fewReady(&clusters, summary)
			if opts.watch {
				fewRows(&clusters)
			}
		}
		shown = []view{clusters}
		if len(summary.Problems) > 0 {
			shown = []view{problemsView(summary), clusters}
		}
		if opts.output.format == "table" {
			briefMessages(shown)
		}
		return shown, summary.Ready, summary.Verdict, nil
	}
	if len(summary.Clusters) == 0 {
		return nil, false, "", codef(exitcode.NotFound, "cluster %q is not in the fleet %s, or not in that state; pinnace status lists all", opts.cluster, summary.Fleet)
	}
	cluster := summary.Clusters[0]
	verdict = fmt.Sprintf("cluster %s: %s", cluster.Name, cluster.Verdict)
	if cluster.Message != "" {
		verdict += ": " + cluster.Message
	}
	return clusterViews(cluster), cluster.Verdict == status.Ready, verdict, nil
}

// problemsView shows what clusters have in common that is wrong.
func problemsView(summary status.Summary) view {
	v := view{
		data:    statusResult{newResultMeta("Status"), summary},
		columns: columns("CLUSTERS", "STATE", "BUNDLE", "REASON", "SINCE", "WHERE", "MESSAGE"),
	}
	for _, problem := range summary.Problems {
		where := strings.Join(problem.Examples, ",")
		if more := problem.Clusters - len(problem.Examples); more > 0 {
			where = fmt.Sprintf("%s and %d more", strings.Join(problem.Examples[:1], ","), problem.Clusters-1)
		}
		v.rows = append(v.rows, []string{
			strconv.Itoa(problem.Clusters), string(problem.Verdict), problem.Bundle, problem.Reason, ago(problem.Since.Time), where, problem.Message,
		})
	}
	return v
}

func verdictNamed(name string) (status.Verdict, bool) {
	at := slices.IndexFunc(status.Verdicts, func(v status.Verdict) bool { return strings.EqualFold(string(v), name) })
	if at < 0 {
		return "", false
	}
	return status.Verdicts[at], true
}

func verdictNames() string {
	names := make([]string, len(status.Verdicts))
	for i, verdict := range status.Verdicts {
		names[i] = strings.ToLower(string(verdict))
	}
	return strings.Join(names, ", ")
}

func clustersView(summary status.Summary) view {
	v := view{
		data:    statusResult{newResultMeta("Status"), summary},
		columns: columns("CLUSTER", "STATE", "BUNDLES", "GENERATION", "REPORTED", "MESSAGE", "+REASON", "+KUBERNETES", "+NODES", "+ARCH", "+AGENT"),
	}
	for i := range summary.Clusters {
		cluster := &summary.Clusters[i]
		v.rows = append(v.rows, []string{
			cluster.Name, string(cluster.Verdict), fmt.Sprintf("%d/%d", cluster.ReadyBundles, cluster.AllBundles),
			generations(*cluster), reported(*cluster), refusal(*cluster), cluster.Reason, cluster.Kubernetes, nodes(*cluster),
			strings.Join(cluster.Architectures, ","), cluster.Agent,
		})
		v.names = append(v.names, "cluster/"+cluster.Name)
	}
	return v
}

func nodes(cluster status.Cluster) string {
	if cluster.Nodes == 0 {
		return ""
	}
	return strconv.Itoa(cluster.Nodes)
}

func bundlesView(summary status.Summary) view {
	v := view{
		data:    statusResult{newResultMeta("Status"), summary},
		columns: columns("BUNDLE", "READY", "VERSIONS", "MESSAGE"),
	}
	for _, bundle := range summary.Bundles {
		v.rows = append(v.rows, []string{
			bundle.Name, fmt.Sprintf("%d/%d", bundle.Ready, bundle.Clusters), strconv.Itoa(len(bundle.Versions)), bundle.Message,
		})
		v.names = append(v.names, "bundle/"+bundle.Name)
	}
	return v
}

// clusterViews show everything about one cluster.
func clusterViews(cluster status.Cluster) []view {
	views := []view{clusterView(cluster)}
	if len(cluster.Rollouts) > 0 {
		v := view{columns: columns("ROLLOUT", "PLAN", "STATE", "FETCHED", "STARTED", "MESSAGE")}
		for _, rollout := range cluster.Rollouts {
			v.rows = append(v.rows, []string{
				rollout.Name, strconv.FormatInt(rollout.Plan, 10), string(rollout.State), strconv.FormatBool(rollout.Fetched),
				ago(rollout.StartedAt.Time), rollout.Message,
			})
		}
		views = append(views, v)
	}
	if len(cluster.Drift) > 0 {
		v := view{columns: columns("DRIFT", "BUNDLE", "OBJECT", "ACTION", "MESSAGE")}
		for _, event := range cluster.Drift {
			v.rows = append(v.rows, []string{ago(event.At.Time) + " ago", event.Bundle, event.Object, event.Action, event.Message})
		}
		views = append(views, v)
	}
	return views
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
