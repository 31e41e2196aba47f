package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionResult struct {
	resultMeta
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand(s *session) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version of this program, the commit that it was built from, and the Go release and platform.",
		Example: `  pinnace version

  # For scripts
  pinnace version -o json`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			if err := out.check(); err != nil {
				return err
			}
			result := s.build()
			return out.print(s.Out, view{
				data:    result,
				columns: columns("VERSION", "COMMIT", "+GO", "+PLATFORM"),
				rows:    [][]string{{result.Version, result.Commit, result.Go, result.Platform}},
				names:   []string{result.Version},
			})
		},
	}
	out.register(cmd)
	return cmd
}

// build says what this program is.
func (s *session) build() versionResult {
	result := versionResult{
		resultMeta: newResultMeta("Version"), Version: s.Version,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return result
	}
	if result.Version == "" {
		result.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			result.Commit = setting.Value
		case "vcs.modified":
			result.Modified = setting.Value == "true"
		}
	}
	return result
}
