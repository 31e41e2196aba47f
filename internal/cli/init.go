package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/docs/schemas"
	"pinnace.dev/pinnace/examples"
	"pinnace.dev/pinnace/pkg/oci"
)

type initOptions struct {
	dir      string
	name     string
	registry string
}

func newInitCommand(s *session) *cobra.Command {
	var opts initOptions
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a fleet repository that works as it stands",
		Long: `Write a fleet repository to start from: pinnace.yaml, three clusters with groups, and bundles made of plain
manifests, a kustomization and a Helm chart. Editors that know the YAML language server complete and check every
document by the schemas in .schemas/.

Files that exist are never overwritten.`,
		Example: `  # In a new folder
  pinnace init fleet --registry registry.example.com/fleet

  # Here, under another name
  pinnace init --name acme`,
		Args: arguments(0, 1, "at most one folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			opts.dir = "."
			if len(args) == 1 {
				opts.dir = args[0]
			}
			return runInit(s, opts)
		},
	}
	cmd.Flags().StringVar(&opts.name, "name", "", "name of the fleet; the folder's name when empty")
	cmd.Flags().StringVar(&opts.registry, "registry", examples.Registry, "prefix of the fleet's repositories: host[:port]/path")
	return cmd
}

func runInit(s *session, opts initOptions) error {
	if opts.name == "" {
		dir, err := filepath.Abs(opts.dir)
		if err != nil {
			return fmt.Errorf("init %s: %w", opts.dir, err)
		}
		opts.name = fleetName(filepath.Base(dir))
	}
	if !dnsLabel.MatchString(opts.name) {
		return usagef("--name %q is not a DNS label; use at most 63 of a-z, 0-9 and -", opts.name)
	}
	if _, err := oci.Open(opts.registry, oci.Options{}); err != nil {
		return ofInput(err)
	}
	files, err := fleetFiles(opts)
	if err != nil {
		return fmt.Errorf("init %s: %w", opts.dir, err)
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	if err := writeNew(opts.dir, names, files); err != nil {
		return err
	}
	for _, name := range names {
		if err := s.printf("%s\n", filepath.Join(opts.dir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	s.message(markDone, "fleet %s with three clusters and five bundles, to be published to %s", opts.name, opts.registry)
	s.next(opts)
	return nil
}

// next says what to do now. It is for people: a pipe does not get it.
func (s *session) next(opts initOptions) {
	if s.quiet || s.logFormat == "json" {
		return
	}
	s.say(`
Next:
  1. make a key pair:            pinnace keys generate
  2. see who would get what:     pinnace target --fleet %[1]s
  3. start a registry to try:    pinnace registry serve --addr 127.0.0.1:5000 --root registry
     or name yours:              edit spec.registry in %[2]s
  4. publish:                    pinnace publish --fleet %[1]s --key cosign.key --plain-http
                                 (--plain-http only for the registry of step 3)
`, opts.dir, filepath.Join(opts.dir, "pinnace.yaml"))
}

// writeNew writes the files unless one of them exists: then it writes none.
func writeNew(dir string, names []string, files map[string][]byte) error {
	for _, name := range names {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Lstat(file); err == nil {
			return usagef("%s exists; choose another folder, or move it away", file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("init %s: %w", dir, err)
		}
	}
	for _, name := range names {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("init %s: %w", dir, err)
		}
		if err := os.WriteFile(file, files[name], 0o644); err != nil {
			return fmt.Errorf("init %s: %w", dir, err)
		}
	}
	return nil
}

const schemaFolder = ".schemas"

// fleetFiles is the example fleet under the name and registry that were asked for, with the schemas beside it.
func fleetFiles(opts initOptions) (map[string][]byte, error) {
	files := map[string][]byte{}
	example := examples.Fleet()
	err := fs.WalkDir(example, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(example, name)
		if err != nil {
			return err
		}
		data = bytes.ReplaceAll(data, []byte(examples.Schemas), []byte(schemaFolder))
		if name == "pinnace.yaml" {
			data = bytes.Replace(data, []byte("name: "+examples.FleetName), []byte("name: "+opts.name), 1)
			data = bytes.Replace(data, []byte("registry: "+examples.Registry), []byte("registry: "+opts.registry), 1)
		}
		files[name] = data
		return nil
	})
	if err != nil {
		return nil, err
	}
	all, err := schemas.All()
	if err != nil {
		return nil, err
	}
	for name, data := range all {
		files[path.Join(schemaFolder, name)] = data
	}
	return files, nil
}

var (
	dnsLabel    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	notDNSLabel = regexp.MustCompile(`[^a-z0-9]+`)
)

// fleetName makes a DNS label of a folder's name.
func fleetName(folder string) string {
	const longest = 63
	name := notDNSLabel.ReplaceAllString(strings.ToLower(folder), "-")
	if len(name) > longest {
		name = name[:longest]
	}
	if name = strings.Trim(name, "-"); name == "" {
		return "fleet"
	}
	return name
}
