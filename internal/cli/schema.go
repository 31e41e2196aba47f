package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/docs/schemas"
)

func newSchemaCommand(s *session) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schema of a kind of document",
		Long: `Print the JSON Schema of a kind of document that people write, for editors and for checks in a pipeline.

Editors with the YAML language server take it from a comment in the first line of a document:
  # yaml-language-server: $schema=.schemas/fleet.json`,
		Example: `  # One kind
  pinnace schema Bundle

  # All kinds, as files
  pinnace schema --dir .schemas`,
		Args:      arguments(0, 1, "at most one kind"),
		ValidArgs: schemas.Kinds,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case dir != "" && len(args) == 0:
				return writeSchemas(s, dir)
			case dir == "" && len(args) == 1:
				data, err := schemas.Schema(args[0])
				if err != nil {
					return usagef("%v", err)
				}
				return s.printf("%s", data)
			}
			return usagef("name one kind, or a folder for all of them with --dir; kinds are %v", schemas.Kinds)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write all schemas to")
	return cmd
}

func writeSchemas(s *session, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	for _, kind := range schemas.Kinds {
		data, err := schemas.Schema(kind)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, schemas.File(kind))
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return fmt.Errorf("write schemas: %w", err)
		}
		if err := s.printf("%s\n", file); err != nil {
			return err
		}
	}
	return nil
}
