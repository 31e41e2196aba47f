package cli

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

type diffOptions struct {
	fleet    fleetFlags
	registry registryFlags
	prefix   string
	policy   string
	key      string
	from     string
	jobs     int
	format   string
}

var diffFormats = []string{"text", "json", "markdown"}

type diffResult struct {
	resultMeta
	publish.DiffResult
}

// errDifferent gives the exit code of a difference, as kubectl diff does; what differs is printed already.
var errDifferent = exitcode.With(exitcode.No, errors.New("the fleet differs from what is published"))

func newDiffCommand(s *session) *cobra.Command {
	var opts diffOptions
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show what a publish would change on which clusters",
		Long: `Compare the fleet repository as it stands with what is published in its registry: which clusters change, and what
changes in the objects that they get. A change that is the same for many clusters is shown once. Nothing is written, and
no private key is needed. With --from it is compared with another revision of the fleet repository, and no registry is
read.

Objects are compared as bundles hold them, with ${NAME} where a variable is replaced on the cluster; charts are rendered
with the values of the first cluster that is named. Secrets are shown as ***: the content of Secrets, and what stands
under keys such as password and token.

It exits with 0 when there is no difference, with 1 when there is one, and with more when something failed.`,
		Example: `  # Before a publish
  pinnace diff --fleet fleet --key cosign.pub

  # In CI: a comment for the pull request
  pinnace diff --key cosign.pub -o markdown > comment.md

  # The working tree against a branch
  pinnace diff --from main`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return failed(runDiff(cmd.Context(), s, opts)) },
	}
	flags := cmd.Flags()
	opts.fleet.register(cmd)
	flags.StringVar(&opts.prefix, "registry", "", "prefix to compare with, instead of the fleet's spec.registry")
	flags.StringVar(&opts.policy, "policy", "", "trust policy that what is published must satisfy")
	flags.StringVar(&opts.key, "key", "", "public key that must have signed what is published")
	flags.StringVar(&opts.from, "from", "", "branch, tag or full commit of the fleet repository to compare with, instead of what is published")
	flags.IntVar(&opts.jobs, "jobs", 0, "builds and fetches at the same time; four for each processor when 0")
	flags.StringVarP(&opts.format, "output", "o", "text", "output format: "+strings.Join(diffFormats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(diffFormats, cobra.ShellCompDirectiveNoFileComp))
	opts.registry.register(cmd)
	return cmd
}

// verifier is nil where nothing published is read.
func (o diffOptions) verifier(s *session) (*signing.Verifier, error) {
	if o.from == "" {
		return loadVerifier(s, o.policy, o.key)
	}
	if o.prefix != "" || o.policy != "" || o.key != "" {
		return nil, usagef("--from reads nothing published; leave out --registry, --policy and --key")
	}
	return nil, nil
}

// failed keeps the exit code of a difference for differences.
func failed(err error) error {
	if err != nil && !errors.Is(err, errDifferent) && exitCode(err) == exitcode.No {
		return exitcode.With(exitcode.Usage, err)
	}
	return err
}

func runDiff(ctx context.Context, s *session, opts diffOptions) error {
	if !slices.Contains(diffFormats, opts.format) {
		return usagef("--output %q is not known; use one of %s", opts.format, strings.Join(diffFormats, ", "))
	}
	from, err := opts.fleet.options()
	if err != nil {
		return err
	}
	verifier, err := opts.verifier(s)
	if err != nil {
		return err
	}
	from.OCI = opts.registry.options(s)
	progress := newProgress(s)
	from.Reading = progress.step
	result, err := publish.Diff(ctx, publish.DiffOptions{
		LoadOptions: from, Registry: opts.prefix, Verifier: verifier, From: opts.from, Jobs: opts.jobs,
		Progress: progress.step,
	})
	progress.end()
	if err != nil {
		return err
	}
	switch opts.format {
	case "json":
		out := output{format: "json"}
		err = out.print(s.Out, view{data: diffResult{newResultMeta("DiffResult"), result}})
	case "markdown":
		err = s.printf("%s", diffMarkdown(result))
	default:
		err = s.printf("%s", diffText(result, isTerminal(s.Out) && os.Getenv("NO_COLOR") == ""))
	}
	if err == nil && result.Differs() {
		err = errDifferent
	}
	return err
}
