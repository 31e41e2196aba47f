package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newDocsCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:    "docs DIR",
		Short:  "Write the reference of the command line",
		Long:   "Write the generated documentation below a folder: cli/ with a page for each command, and exit-codes.md.",
		Hidden: true,
		Args:   arguments(1, 1, "one folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pages, err := referencePages(cmd.Root())
			if err != nil {
				return err
			}
			for name, data := range pages {
				file := filepath.Join(args[0], filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					return fmt.Errorf("write docs: %w", err)
				}
				if err := os.WriteFile(file, data, 0o644); err != nil {
					return fmt.Errorf("write docs: %w", err)
				}
			}
			s.message(markDone, "%d pages in %s", len(pages), args[0])
			return nil
		},
	}
}

// referencePages returns the generated documentation by its path below docs/.
func referencePages(root *cobra.Command) (map[string][]byte, error) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	pages := map[string][]byte{"exit-codes.md": []byte(exitCodesMarkdown())}
	var write func(cmd *cobra.Command) error
	write = func(cmd *cobra.Command) error {
		if cmd.Hidden || cmd.Name() == "help" {
			return nil
		}
		var page bytes.Buffer
		if err := doc.GenMarkdown(cmd, &page); err != nil {
			return fmt.Errorf("write docs of %s: %w", cmd.CommandPath(), err)
		}
		pages["cli/"+strings.ReplaceAll(cmd.CommandPath(), " ", "_")+".md"] = page.Bytes()
		for _, sub := range cmd.Commands() {
			if err := write(sub); err != nil {
				return err
			}
		}
		return nil
	}
	return pages, write(root)
}
