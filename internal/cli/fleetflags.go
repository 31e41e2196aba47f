package cli

import (
	"os"
	"path/filepath"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chart"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/publish"
)

// fleetFlags say which fleet repository is read.
type fleetFlags struct {
	fleet    string
	ref      v1alpha1.GitRef
	cacheDir string
}

func (f *fleetFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.fleet, "fleet", ".", "fleet repository: a folder, or a Git URL")
	flags.StringVar(&f.ref.Branch, "branch", "", "branch of a Git URL; its HEAD when empty")
	flags.StringVar(&f.ref.Tag, "tag", "", "tag of a Git URL")
	flags.StringVar(&f.ref.Commit, "commit", "", "commit of a Git URL")
	flags.StringVar(&f.cacheDir, "cache-dir", "", "folder that keeps checkouts; pinnace in the user's cache folder when empty")
	_ = cmd.MarkFlagDirname("fleet")
}

func (f *fleetFlags) options() (publish.LoadOptions, error) {
	refs := 0
	for _, name := range []string{f.ref.Branch, f.ref.Tag, f.ref.Commit} {
		if name != "" {
			refs++
		}
	}
	if refs > 1 {
		return publish.LoadOptions{}, usagef("--branch, --tag and --commit exclude each other; give one")
	}
	cacheDir := f.cacheDir
	if cacheDir == "" {
		cacheDir = filepath.Join(xdg.CacheHome, "pinnace")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "" // no home, no credentials from it
	}
	return publish.LoadOptions{
		Fleet: f.fleet, Ref: f.ref, CacheDir: cacheDir, Auth: source.AuthFromEnvironment(os.Getenv, home),
		HelmConfig: chart.HelmConfigFile(os.Getenv, home),
	}, nil
}
