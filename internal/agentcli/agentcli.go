// Package agentcli is the command line of pinnace-agent. It reads the configuration, wires the verifier, the clients
// and the HTTP endpoints to package agent, and prints.
//
// Results go to stdout, logs and errors to stderr. Exit codes come from internal/exitcode.
package agentcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"pinnace.dev/pinnace/internal/exitcode"
)

// Program is what the command line runs with.
type Program struct {
	// Version is set by the linker; what the build says when empty.
	Version string
	Out     io.Writer
	Err     io.Writer
}

// Run runs the command line and returns the exit code. Cancelling the context interrupts it; that is how run ends, and
// no error there.
func Run(ctx context.Context, program Program, args []string) int {
	s := &session{Program: program}
	root := newRoot(s)
	root.SetArgs(args)
	root.SetOut(program.Out)
	root.SetErr(program.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitcode.Done
	}
	code := exitCode(err)
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(program.Err, "error: %s\n", strings.TrimSuffix(line, "\n")) //nolint:errcheck // nobody is left to tell
	}
	return code
}

// session is what commands share.
type session struct {
	Program
	verbose   bool
	logFormat string
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "pinnace-agent",
		Short: "Keep one Kubernetes cluster as its signed target in an OCI registry says",
		Long: `pinnace-agent polls one tag of an OCI registry, verifies what it finds against a local trust policy, and applies it
to its cluster. What it verified stays on disk, so that it corrects drift and starts anew without the registry.`,
		Example: `  # Keep the cluster as its target says
  pinnace-agent run --config agent.yaml

  # Bring it there once, and say by the exit code what happened
  pinnace-agent sync --once --config agent.yaml`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if s.logFormat != "text" && s.logFormat != "json" {
				return usagef("--log-format %q is not known; use text or json", s.logFormat)
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.BoolVarP(&s.verbose, "verbose", "v", false, "log what was decided not to do, too")
	flags.StringVar(&s.logFormat, "log-format", "text", "format of logs on stderr: text or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newRunCommand(s), newSyncCommand(s), newWhyCommand(s), newStatusCommand(s), newSuspendCommand(s),
		newResumeCommand(s), newVersionCommand(s))
	return root
}

// log is where everything that the agent says goes.
func (s *session) log() *slog.Logger {
	log := s.newLog()
	librariesLog.Do(func() { logLibraries(log) })
	return log
}

// librariesLog guards what the whole process shares.
var librariesLog sync.Once

// logLibraries has libraries log our way: client-go's lines in our format, and nothing of Helm's, which prints values
// that don't fit a chart's to the standard logger, and values may be secret.
func logLibraries(log *slog.Logger) {
	klog.SetSlogLogger(log)
	stdlog.SetOutput(io.Discard)
}

func (s *session) newLog() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if s.verbose {
		options.Level = slog.LevelDebug
	}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(s.Err, options))
	}
	return slog.New(slog.NewTextHandler(s.Err, options))
}

func usagef(format string, args ...any) error {
	return exitcode.With(exitcode.Usage, fmt.Errorf(format, args...))
}

// noArgs refuses arguments as wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command or argument %q; see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}

// exactly refuses another number of arguments as wrong usage.
func exactly(count int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != count {
			return usagef("name %s; see %s --help", what, cmd.CommandPath())
		}
		return nil
	}
}

// configVariable names the configuration of commands to a running agent, which people type.
const (
	configVariable = "PINNACE_AGENT_CONFIG"
	configFile     = "/etc/pinnace/agent.yaml"
)

// adminFlag is --config for commands to a running agent: in its pod it need not be given.
func adminFlag(cmd *cobra.Command, file *string) {
	standard := configFile
	if named := os.Getenv(configVariable); named != "" {
		standard = named
	}
	cmd.Flags().StringVarP(file, "config", "c", standard, "the running agent's configuration (AgentConfig), also $"+configVariable)
	if err := cmd.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // the flag was just defined
	}
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "the agent's configuration (AgentConfig), required")
	if err := cmd.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // the flag was just defined
	}
}

func required(file string) error {
	if file == "" {
		return usagef("name the agent's configuration with --config")
	}
	return nil
}

// build says what this program is.
func (s *session) build() (version, commit string) {
	version = s.Version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if version == "" {
		version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			commit = setting.Value
		}
	}
	return version, commit
}

var errInterrupted = exitcode.With(exitcode.Interrupted, errors.New("interrupted"))
