package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/conform"
)

type validateOptions struct {
	fleet    fleetFlags
	registry registryFlags
	// version of Kubernetes, and files with definitions, that objects are checked against.
	version     string
	definitions []string
	output      output
}

type validateResult struct {
	resultMeta
	Valid bool `json:"valid"`
	publish.Validation
	Findings []finding `json:"findings"`
}

// finding is one thing that is wrong, with its place where it has one.
type finding struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func (f finding) String() string {
	if f.File == "" {
		return f.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

func newValidateCommand(s *session) *cobra.Command {
	var opts validateOptions
	cmd := &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Check a fleet repository without publishing it",
		Long: `Check everything that a publish checks before it writes: every document, every rule, the plan of every cluster, and
that every variant of every bundle renders. It needs no key and no registry, and of the network only what the fleet's
sources in other repositories need.

With --kube-version or --crd every object that renders is checked too, as an API server would, without one: fields that
its kind doesn't have or that are missing, values of the wrong type, API versions that the version doesn't serve, and for
custom resources whatever else their definitions say: bounds, patterns and rules. API versions that are deprecated are
warnings, with what takes their place. Definitions that come with the fleet's bundles are known without naming them.
Fields of Kubernetes' own kinds are those of 1.` + strconv.Itoa(conform.Newest) + `.

Findings go to stdout, one a line, with file, line and column. It exits with 0 when there is none and with 2 otherwise.`,
		Example: `  # The fleet repository here
  pinnace validate

  # In CI: also every object, against Kubernetes 1.34 and the definitions of operators that are installed otherwise
  pinnace validate fleet --kube-version 1.34 --crd crds/ -o json`,
		Args: arguments(0, 1, "at most one folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.fleet.fleet = args[0]
			}
			return runValidate(cmd.Context(), s, opts)
		},
	}
	opts.fleet.register(cmd)
	cmd.Flags().StringVar(&opts.version, "kube-version", "", "check objects against this version of Kubernetes, such as 1.34")
	cmd.Flags().StringArrayVar(&opts.definitions, "crd", nil, "file or folder with CustomResourceDefinitions to check objects against; may be repeated")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runValidate(ctx context.Context, s *session, opts validateOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	from, err := opts.fleet.options()
	if err != nil {
		return err
	}
	if _, err := conform.New(opts.version, nil); err != nil {
		return usagef("--kube-version: %w", err)
	}
	from.OCI = opts.registry.options(s)
	progress := newProgress(s)
	from.Reading = progress.step
	checked, err := publish.Validate(ctx, publish.ValidateOptions{
		LoadOptions: from, KubeVersion: opts.version, Definitions: opts.definitions, Progress: progress.step,
	})
	progress.end()
	s.warn(checked.Warnings)
	result := validateResult{resultMeta: newResultMeta("ValidateResult"), Valid: err == nil, Validation: checked, Findings: []finding{}}
	if err != nil {
		if err = ofInput(err); exitCode(err) != exitcode.Usage {
			return err // what could not be read is not wrong
		}
		result.Findings = findings(err)
		slices.SortStableFunc(result.Findings, func(a, b finding) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
		})
		err = codef(exitcode.Usage, "%s", count(len(result.Findings), "finding"))
	}
	return cmp.Or(s.printValidation(result, opts.output), err)
}

func (s *session) printValidation(result validateResult, out output) error {
	v := view{data: result, footer: fmt.Sprintf("%s, %s, %s: valid",
		count(result.Clusters, "cluster"), count(result.Bundles, "bundle"), count(result.Variants, "variant"))}
	if result.Valid || out.format == "json" || out.format == "yaml" {
		return out.print(s.Out, v)
	}
	for _, finding := range result.Findings {
		if err := s.printf("%s\n", finding); err != nil {
			return err
		}
	}
	return nil
}

// findings takes an error apart as [errorLines] does.
func findings(err error) []finding {
	if several := parts(err); several != nil {
		var all []finding
		for _, one := range several {
			all = append(all, findings(one)...)
		}
		return all
	}
	var placed document.Error
	if errors.As(err, &placed) && err.Error() == placed.Error() {
		return []finding{{File: placed.File, Line: placed.Line, Column: placed.Column, Message: oneLine(placed.Message)}}
	}
	// What stands before a finding in a file, such as its source, goes on after the place.
	if inner := errors.Unwrap(err); inner != nil {
		prefix, ok := strings.CutSuffix(err.Error(), inner.Error())
		if below := findings(inner); ok && slices.ContainsFunc(below, func(f finding) bool { return f.File != "" }) {
			for i := range below {
				below[i].Message = oneLine(prefix + below[i].Message)
			}
			return below
		}
	}
	var all []finding
	for _, line := range errorLines(err) {
		all = append(all, finding{Message: line})
	}
	return all
}
