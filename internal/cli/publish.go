package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

type publishOptions struct {
	fleet    fleetFlags
	registry registryFlags
	prefix   string
	signFlags
	previous   previousFlags
	sealKey    string
	allowPrune bool
	dryRun     bool
	refresh    bool
	jobs       int
	output     output
}

type publishResult struct {
	resultMeta
	publish.Result
}

func newPublishCommand(s *session) *cobra.Command {
	var opts publishOptions
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Build, sign and push a fleet's bundles and targets",
		Long: `Read the fleet repository and its sources, build the bundles that changed, sign and push them, and issue a new
signed target to every cluster for which something changed. What agents look at is moved last: an interrupted
publish changes nothing for them, and running it again goes on from there. The same input pushes nothing.

A source that cannot be read stays as it was published last: its clusters keep what they have, the others are
published, and the exit code is 3. What a range of a chart's versions meant stays until --refresh looks again.

A publish that would remove more than half of what a cluster runs is refused without --allow-prune.

The key may change: with --previous-key, what the key before signed goes on, and is signed by the new one too. Where an
identity signed before, --previous-policy names it.

Git repositories are read with the credentials of git and ssh, or with PINNACE_GIT_TOKEN and PINNACE_GIT_HOST.`,
		Example: `  # A fleet repository on disk
  COSIGN_PASSWORD=… pinnace publish --fleet . --key cosign.key

  # In CI: a Git repository, with the result as data
  pinnace publish --fleet https://git.example.com/fleet.git --branch main --key cosign.key --password-file password -o json`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runPublish(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	opts.fleet.register(cmd)
	flags.StringVar(&opts.prefix, "registry", "", "prefix to publish below, instead of the fleet's spec.registry")
	opts.signFlags.register(cmd)
	opts.previous.register(cmd)
	flags.StringVar(&opts.sealKey, "seal-key", "", "file that stays secret and the same, to tell which secret values changed; the signing key's when empty")
	flags.BoolVar(&opts.allowPrune, "allow-prune", false, "permit removing more than half of what a cluster runs")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "say what would be published and write nothing")
	flags.BoolVar(&opts.refresh, "refresh", false, "look again at what charts' versions, images' tags and remote bases mean, which otherwise stays as it was found")
	flags.IntVar(&opts.jobs, "jobs", 0, "builds and pushes at the same time; four for each processor when 0")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runPublish(ctx context.Context, s *session, opts publishOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	from, err := opts.fleet.options()
	if err != nil {
		return err
	}
	signer, err := opts.signFlags.open(ctx, s)
	if err != nil {
		return err
	}
	previousKeys, previousPolicy, err := opts.previous.read(s)
	if err != nil {
		return err
	}
	identify, err := sealKey(cmp.Or(opts.sealKey, opts.key))
	if err != nil {
		return err
	}
	from.OCI, from.Refresh = opts.registry.options(s), opts.refresh
	progress := newProgress(s)
	from.Reading = progress.step
	result, err := publish.Publish(ctx, publish.Options{
		LoadOptions:    from,
		Registry:       opts.prefix,
		Signer:         signer,
		PreviousKeys:   previousKeys,
		PreviousPolicy: previousPolicy,
		SealKey:        identify,
		AllowPrune:     opts.allowPrune,
		DryRun:         opts.dryRun,
		Jobs:           opts.jobs,
		Progress:       progress.step,
	})
	progress.end()
	return s.published(result, err, opts.output)
}

func publishView(result publish.Result) view {
	v := view{
		data:    publishResult{newResultMeta("PublishResult"), result},
		columns: columns("NAME", "ACTION", "DIGEST", "DETAIL", "+SOURCE"),
	}
	for _, bundle := range result.Bundles {
		v.rows = append(v.rows, []string{
			"bundle/" + bundle.Name, string(bundle.Action), shortDigest(bundle.Digest), count(bundle.Clusters, "cluster"), bundle.Source,
		})
		v.names = append(v.names, "bundle/"+bundle.Name)
	}
	for _, t := range result.Targets {
		detail := fmt.Sprintf("generation %d, %s", t.Generation, count(t.Bundles, "bundle"))
		if t.Reason != "" && t.Action != target.Created {
			detail += ": " + t.Reason
		}
		v.rows = append(v.rows, []string{"target/" + t.Cluster, string(t.Action), shortDigest(t.Digest), detail, ""})
		v.names = append(v.names, "target/"+t.Cluster)
	}
	return v
}

// publishSummary ends a publish: what was done, and what to do next.
func (s *session) publishSummary(result publish.Result) {
	bundles, targets := map[target.Action]int{}, map[target.Action]int{}
	for _, bundle := range result.Bundles {
		bundles[bundle.Action]++
	}
	for _, t := range result.Targets {
		targets[t.Action]++
	}
	done := "published"
	if result.DryRun {
		done = "would publish"
	}
	if !result.Changed() {
		done = "nothing to publish"
	}
	s.message(markDone, "%s: fleet %s, publication %d on %s; bundles: %s; targets: %s",
		done, result.Fleet, result.Publication, result.Registry, tally(bundles), tally(targets))
	if again := result.SignedAgain; again > 0 && result.DryRun {
		s.message(markDone, "would sign again what an earlier signer signed: %s", count(again, "artifact"))
	} else if again > 0 {
		s.message(markDone, "signed again what an earlier signer signed: %s; where agents trust the new one, they need the earlier one no more", count(again, "artifact"))
	}
	if result.Pruned != nil {
		s.message(markDone, "removed what is older than the history that is kept: %s", pruned(*result.Pruned))
	}
	for _, one := range result.Rollouts {
		s.message(markWaiting, "rollout %s, plan %d: %s in %d steps, which begin with: pinnace rollout step --registry %s --key …",
			one.Name, one.Plan, count(one.Clusters, "cluster"), rollout.Peopled(one.Steps), result.Registry)
	}
	if !result.DryRun && targets[target.Created] > 0 {
		s.message(markWaiting, "agents take it at their next poll; watch them with: pinnace status --registry %s", result.Registry)
	}
}

// tally says how many of each action, such as "2 created, 1 unchanged".
func tally(actions map[target.Action]int) string {
	var parts []string
	for _, action := range []target.Action{target.Created, target.Changed, target.Renewed, target.Unchanged, target.Refused} {
		if n := actions[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
