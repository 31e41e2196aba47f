// Package cli is the command line of pinnace.
//
// Rules of the user interface. Results go to stdout and nothing else does, so that a pipe always works; progress,
// warnings and errors go to stderr. Every list and every result knows -o table, wide, json, yaml and name. An error is
// one line that names cause, subject and act; findings in documents are one line each, with file, line and column.
// Exit codes come from one table, see internal/exitcode. Every flag has a twin in the environment: --plain-http is
// PINNACE_PLAIN_HTTP; the flag wins. No command asks a question where no person sits.
//
// One file holds one command: its flags, an options struct, one call into pkg, one print. [Run] is the whole program.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pinnace.dev/pinnace/internal/exitcode"
)

// Program is what the command line runs with.
type Program struct {
	// Version is printed by pinnace version and sent to registries; what the build says when empty.
	Version string
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
}

// Run runs the command line and returns the exit code. Cancelling the context interrupts it.
func Run(ctx context.Context, program Program, args []string) int {
	session := &session{Program: program}
	root := newRoot(session)
	root.SetArgs(args)
	root.SetIn(program.In)
	root.SetOut(program.Out)
	root.SetErr(program.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitcode.Done
	}
	if ctx.Err() != nil {
		err = errInterrupted // whatever the work that was broken off says of itself
	}
	code := exitCode(err)
	if !errors.Is(err, errDifferent) {
		session.printError(err, code)
	}
	return code
}

// session is what commands share: where to print and how.
type session struct {
	Program
	quiet     bool
	verbose   bool
	logFormat string
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "pinnace",
		Short: "Deliver Git repositories to thousands of Kubernetes clusters through any OCI registry",
		Long: `pinnace renders Git repositories into signed bundles and one signed target per cluster, and pushes both to an
OCI registry. An agent on each cluster pulls its target, verifies it and applies it.

Every flag may be given by the environment too: --plain-http is PINNACE_PLAIN_HTTP. Credentials for registries
are those of docker login, oras login or crane auth login.`,
		Example: `  # Start a fleet repository and publish it
  pinnace init fleet
  pinnace keys generate
  pinnace publish --fleet fleet --key cosign.key

  # See what one cluster would get, and why
  pinnace target factory-01 --fleet fleet`,
		Args:          cobra.ArbitraryArgs,
		RunE:          helpOrUnknown,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return s.prepare(cmd)
		},
	}
	flags := root.PersistentFlags()
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "print results, warnings and errors only")
	flags.BoolVarP(&s.verbose, "verbose", "v", false, "print every step and its details")
	flags.StringVar(&s.logFormat, "log-format", "text", "format of messages on stderr: text or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newInitCommand(s),
		newKeysCommand(s),
		newSealCommand(s),
		newPublishCommand(s),
		newRollbackCommand(s),
		newHistoryCommand(s),
		newPruneCommand(s),
		newValidateCommand(s),
		newTargetCommand(s),
		newDiffCommand(s),
		newDeployCommand(s),
		newBuildCommand(s),
		newConvertCommand(s),
		newStatusCommand(s),
		newWaitCommand(s),
		newRolloutCommand(s),
		newDemoCommand(s),
		newSignCommand(s),
		newVerifyCommand(s),
		newTrustCommand(s),
		newMirrorCommand(s),
		newRegistryCommand(s),
		newSchemaCommand(s),
		newVersionCommand(s),
		newDocsCommand(s),
	)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault)
	return root
}

// prepare takes flags from the environment and checks the global ones.
func (s *session) prepare(cmd *cobra.Command) error {
	if err := flagsFromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
		return err
	}
	if s.logFormat != "text" && s.logFormat != "json" {
		return usagef("--log-format %q is not known; use text or json", s.logFormat)
	}
	return nil
}

// variable is the environment's twin of a flag.
func variable(flag string) string {
	return "PINNACE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// flagsFromEnvironment sets every flag that the command line left alone from its twin.
func flagsFromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || flag.Name == "help" || failed != nil {
			return
		}
		value, ok := lookup(variable(flag.Name))
		if !ok || value == "" {
			return
		}
		if err := flags.Set(flag.Name, value); err != nil {
			failed = usagef("%s=%s: %v", variable(flag.Name), value, err)
		}
	})
	return failed
}

// group is a command that only holds others.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs, RunE: helpOrUnknown}
	cmd.AddCommand(commands...)
	return cmd
}

// helpOrUnknown is what a command does that only holds others.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	near := cmd.SuggestionsFor(args[0])
	if len(near) > 0 {
		return usagef("unknown command %q; did you mean %q?", args[0], cmd.CommandPath()+" "+near[0])
	}
	return usagef("unknown command %q; see %s --help", args[0], cmd.CommandPath())
}

// arguments bounds the positional arguments and names what is expected.
func arguments(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%s expects %s, got %d arguments; see %s --help", cmd.CommandPath(), want, len(args), cmd.CommandPath())
		}
		return nil
	}
}

func (s *session) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(s.Out, format, args...)
	return err
}
