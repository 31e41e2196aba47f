package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

type mirrorPlanOptions struct {
	from, to string
	all      bool
	source   mirrorSource
	receiver mirrorReceiver
	output   output
}

type mirrorPlanResult struct {
	resultMeta
	Fleet       string   `json:"fleet"`
	Publication int64    `json:"publication"`
	Clusters    []string `json:"clusters"`
	// Artifacts are all entries of the closure; Missing says that the receiver lacks one.
	Artifacts []mirrorPlanEntry `json:"artifacts"`
	Moves     []string          `json:"moves"`
	Bytes     int64             `json:"bytes"`
	Blobs     int               `json:"blobs"`
	Images    int               `json:"images"`
	Unsigned  []mirror.Problem  `json:"unsigned,omitempty"`
	Refused   []mirror.Problem  `json:"refused,omitempty"`
	NotFound  []mirror.Problem  `json:"unreadable,omitempty"`
	Resolved  []mirror.Problem  `json:"resolved,omitempty"`
}

type mirrorPlanEntry struct {
	*mirror.Entry
	Missing bool `json:"missing"`
}

func newMirrorPlanCommand(s *session) *cobra.Command {
	var opts mirrorPlanOptions
	cmd := &cobra.Command{
		Use:   "plan FROM [TO]",
		Short: "Show what would be mirrored, and why",
		Long: `Compute what the chosen clusters need from the registry FROM and compare it with what the registry TO has: artifacts,
bytes, images without signatures, what the policy refuses, and images that were not found. Without TO everything is
shown. Nothing is written.

It exits with 0 when there is nothing to do, with 1 when there is, with 3 when something could not be read, and with 6
when the policy refuses something.`,
		Example: `  # What a site's registry lacks
  pinnace mirror plan registry.example.com/fleet registry.site.example/fleet --cluster factory-07 --policy trust.yaml

  # The whole closure of a group, with the reason for every artifact
  pinnace mirror plan registry.example.com/fleet --group eu --platform linux/arm64 --public-key cosign.pub -o wide`,
		Args: arguments(1, 2, "the sender's prefix, and the receiver's"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.from = args[0]
			if len(args) > 1 {
				opts.to = args[1]
			}
			return runMirrorPlan(cmd.Context(), s, opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.all, "all", "A", false, "show also what the receiver has")
	opts.source.register(cmd)
	opts.receiver.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorPlan(ctx context.Context, s *session, opts mirrorPlanOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	to := oci.NewMemory()
	if opts.to != "" {
		var err error
		if to, err = opts.receiver.open(s, opts.to, opts.source.sender.registry); err != nil {
			return err
		}
	}
	_, closure, err := opts.source.find(ctx, s, opts.from, nil)
	if err != nil {
		return err
	}
	there, err := mirror.Look(ctx, to, closure, 0)
	if err != nil {
		return err
	}
	plan := mirror.Compare(closure, there)
	result := planResult(closure, plan)
	if err := opts.output.print(s.Out, planView(result, opts.all || opts.to == "")); err != nil {
		return err
	}
	s.tellProblems(closure.Refused, closure.Missing, closure.Resolved)
	if n := len(closure.Unsigned); n > 0 {
		s.message(markWarning, "%s without a signature, such as %s; no policy asks for one", count(n, "image"), closure.Unsigned[0].Subject)
	}
	return planVerdict(s, result, plan)
}

// planVerdict ends with the exit code: what can't be mirrored is graver than that there is work.
func planVerdict(s *session, result mirrorPlanResult, plan *mirror.Plan) error {
	text := fmt.Sprintf("%s of %s to send: %s in %s and %s; %s to move", count(len(plan.Steps), "artifact"), fmt.Sprint(len(result.Artifacts)),
		showBytes(result.Bytes), count(result.Blobs, "blob"), count(result.Images, "image"), count(len(plan.Moves), "tag"))
	switch {
	case len(result.Refused) > 0:
		return codef(exitcode.Refused, "%s; %d refused by the policy", text, len(result.Refused))
	case len(result.NotFound) > 0:
		return codef(exitcode.Partial, "%s; %d could not be read", text, len(result.NotFound))
	case plan.Done():
		s.message(markDone, "nothing to do: the receiver has all %s", count(len(result.Artifacts), "artifact"))
		return nil
	}
	s.message(markDone, "%s", text)
	return errDifferent
}

func planResult(closure *mirror.Closure, plan *mirror.Plan) mirrorPlanResult {
	result := mirrorPlanResult{
		resultMeta: newResultMeta("MirrorPlan"), Fleet: closure.Fleet, Publication: closure.Publication, Clusters: closure.Clusters,
		Moves: []string{}, Unsigned: closure.Unsigned, Refused: closure.Refused, NotFound: closure.Missing, Resolved: closure.Resolved,
	}
	missing := map[*mirror.Entry]bool{}
	for _, step := range plan.Steps {
		missing[step.Entry] = true
		if step.Entry.Kind == mirror.KindImage {
			result.Images++
		}
	}
	for _, entry := range closure.Entries {
		result.Artifacts = append(result.Artifacts, mirrorPlanEntry{Entry: entry, Missing: missing[entry]})
	}
	for _, move := range plan.Moves {
		result.Moves = append(result.Moves, move.Entry.Repository+":"+move.Tag)
	}
	result.Bytes, result.Blobs = plan.Send()
	return result
}

func planView(result mirrorPlanResult, all bool) view {
	v := view{data: result, columns: columns("KIND", "ARTIFACT", "SIZE", "DIGEST", "WHY", "+SIGNERS", "+TAGS")}
	for _, entry := range result.Artifacts {
		if !entry.Missing && !all {
			continue
		}
		name := entry.Repository
		if entry.Reference != "" {
			name = entry.Reference
		}
		v.rows = append(v.rows, []string{
			string(entry.Kind), name, showBytes(entry.Bytes()), shortDigest(entry.Digest.String()), strings.Join(entry.Why, "; "),
			strings.Join(entry.Signers, ","), strings.Join(append(entry.Tags, entry.Moving...), ","),
		})
		v.names = append(v.names, entry.Key())
	}
	return v
}
