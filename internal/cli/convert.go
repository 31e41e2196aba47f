package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/bundler/fleetyaml"
	"pinnace.dev/pinnace/pkg/bundler/render"
)

type convertOptions struct {
	dir   string
	write bool
}

func newConvertCommand(s *session) *cobra.Command {
	var opts convertOptions
	cmd := &cobra.Command{
		Use:   "convert [DIR]",
		Short: "Print Rancher Fleet's fleet.yaml files as pinnace.yaml",
		Long: `Print the pinnace.yaml that each fleet.yaml below a folder amounts to. A fleet.yaml also works as it is; this shows
what becomes of it, and leaves it behind.

What Pinnace does otherwise is a warning on stderr, what it cannot do is an error; both name file and line. What is the
same for many files is said once, with the first. With errors the exit code is 2, and --write writes nothing for their
files.`,
		Example: `  # See what becomes of them
  pinnace convert bundles

  # Write each beside its fleet.yaml, which is to be removed then
  pinnace convert bundles --write`,
		Args: arguments(0, 1, "at most one folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.dir = "."
			if len(args) == 1 {
				opts.dir = args[0]
			}
			return runConvert(cmd.Context(), s, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.write, "write", false, "write each pinnace.yaml beside its fleet.yaml instead of printing it")
	return cmd
}

func runConvert(ctx context.Context, s *session, opts convertOptions) error {
	root, prefix, err := convertRoot(opts.dir)
	if err != nil {
		return fmt.Errorf("convert %s: %w", opts.dir, err)
	}
	files, err := findFleetYAML(ctx, opts.dir)
	if err != nil {
		return fmt.Errorf("convert %s: %w", opts.dir, err)
	}
	if len(files) == 0 {
		return codef(exitcode.NotFound, "%s holds no fleet.yaml; name a folder of Rancher Fleet's bundles", opts.dir)
	}
	var failed []error
	var findings []fleetyaml.Finding
	for i, file := range files {
		folder := render.Folder{Root: root, Path: filepath.ToSlash(filepath.Join(prefix, filepath.Dir(file)))}
		found, err := s.convertOne(opts, folder, file, i > 0)
		if err != nil {
			failed = append(failed, err)
		}
		findings = append(findings, found...)
	}
	s.warn(fleetyaml.Warnings(findings))
	return errors.Join(failed...)
}

// convertRoot returns the folder that bundles may read files from, and where dir is below it. Like in a build it is where
// the command runs, as in a repository, when dir is there.
func convertRoot(dir string) (root, prefix string, err error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	if below, err := filepath.Rel(here, full); err == nil && filepath.IsLocal(below) {
		return here, below, nil
	}
	return full, ".", nil
}

// findFleetYAML lists the files below dir, relative to it and sorted: one in each folder, as Fleet does.
func findFleetYAML(ctx context.Context, dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !entry.IsDir() {
			return nil
		}
		if entry.Name() == ".git" {
			return fs.SkipDir
		}
		for _, candidate := range render.FleetFiles {
			file := filepath.Join(name, candidate)
			if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() {
				below, err := filepath.Rel(dir, file)
				files = append(files, below)
				return err
			}
		}
		return nil
	})
	slices.Sort(files)
	return files, err
}

func (s *session) convertOne(opts convertOptions, folder render.Folder, file string, more bool) ([]fleetyaml.Finding, error) {
	name := filepath.Join(opts.dir, file)
	data, err := folder.File(filepath.Base(file))
	if err != nil {
		return nil, err
	}
	converted, err := fleetyaml.Convert(filepath.ToSlash(name), data, folder)
	if err != nil {
		return nil, err
	}
	if converted.Bundle.Metadata.Name == "" {
		// What a source would name it after.
		converted.Bundle.Metadata.Name = filepath.Base(filepath.Join(folder.Root, folder.Path))
	}
	bundle, err := converted.Marshal()
	if err != nil {
		return nil, err
	}
	if opts.write {
		if err := converted.Err(); err != nil {
			return converted.Findings, err
		}
		return converted.Findings, s.writeConverted(name, bundle)
	}
	separator := ""
	if more {
		separator = "---\n"
	}
	return converted.Findings, errors.Join(converted.Err(), s.printf("%s# from %s\n%s", separator, filepath.ToSlash(name), bundle))
}

// writeConverted writes beside the fleet.yaml, over nothing.
func (s *session) writeConverted(name string, bundle []byte) error {
	path := filepath.Join(filepath.Dir(name), render.BundleFile)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s is there already; remove it, or %s", path, name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(bundle)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	s.message(markDone, "wrote %s; remove %s, a folder has one of them", path, name)
	return nil
}
