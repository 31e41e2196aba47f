package agentcli

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersionCommand(s *session) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the version of this program, the commit that it was built from, and the Go release and platform.",
		Example: `  pinnace-agent version

  # For scripts
  pinnace-agent version -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			version, commit := s.build()
			if output == "json" {
				return json.NewEncoder(s.Out).Encode(map[string]string{
					"version": version, "commit": commit, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			if output != "" {
				return usagef("-o %q is not known; use json", output)
			}
			_, err := fmt.Fprintln(s.Out, version)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or the version alone when empty")
	return cmd
}
