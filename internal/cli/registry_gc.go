package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/registry"
)

type registryGCOptions struct {
	root   string
	grace  time.Duration
	dryRun bool
	output output
}

type registryGCResult struct {
	resultMeta
	DryRun bool `json:"dryRun"`
	registry.Collected
}

func newRegistryGCCommand(s *session) *cobra.Command {
	var opts registryGCOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete from the built-in registry's folder what nothing refers to",
		Long: `Delete from the folder of the built-in registry what nothing refers to: manifests without a tag that no index names,
signatures of what is gone, and blobs of no manifest. What came within the grace is left alone, since blobs come before
the manifest that names them.

A registry that runs does this by itself: pinnace registry serve --collect-every.`,
		Example: `  # What would go
  pinnace registry gc --root /var/lib/registry --dry-run

  # After pinnace mirror prune, at once
  pinnace registry gc --root /var/lib/registry --grace 0s`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runRegistryGC(cmd.Context(), s, opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.root, "root", "", "the registry's folder")
	flags.DurationVar(&opts.grace, "grace", registry.DefaultGrace, "leave alone what came within this time")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "show what would be deleted, and delete nothing")
	opts.output.register(cmd)
	return cmd
}

func runRegistryGC(ctx context.Context, s *session, opts registryGCOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	if opts.root == "" {
		return usagef("name the registry's folder with --root")
	}
	if info, err := os.Stat(opts.root); err != nil || !info.IsDir() {
		return fmt.Errorf("registry's folder %s: %w", opts.root, fs.ErrNotExist)
	}
	collect := registry.CollectOptions{Grace: opts.grace, DryRun: opts.dryRun, Now: clock()}
	if opts.grace == 0 {
		collect.Grace = -1
	}
	found, err := registry.Collect(ctx, opts.root, collect)
	if err != nil {
		return err
	}
	v := view{data: registryGCResult{newResultMeta("RegistryGC"), opts.dryRun, found}, columns: columns("REPOSITORY", "DIGEST")}
	for _, manifest := range found.Manifests {
		name, d, _ := strings.Cut(manifest, "@")
		v.rows = append(v.rows, []string{name, d})
		v.names = append(v.names, manifest)
	}
	if err := opts.output.print(s.Out, v); err != nil {
		return err
	}
	verb := "deleted"
	if opts.dryRun {
		verb = "would delete"
	}
	s.message(markDone, "%s %s and %s (%s); %d that came within %s stay", verb, count(len(found.Manifests), "manifest"),
		count(found.Blobs, "blob"), showBytes(found.Bytes), found.Kept, opts.grace)
	return nil
}
