package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/mirror"
)

type mirrorHostsOptions struct {
	format    string
	images    []string
	caFile    string
	fallback  bool
	dir       string
	plainHTTP bool
	from      string
	source    mirrorSource
}

func newMirrorHostsCommand(s *session) *cobra.Command {
	var opts mirrorHostsOptions
	cmd := &cobra.Command{
		Use:   "hosts RECEIVER",
		Short: "Write what makes nodes pull images from the receiver",
		Long: `Write the configuration that makes the nodes' container runtime pull mirrored images from the receiver, by the names
that manifests have: registries.yaml for k3s and RKE2, or hosts.toml files for containerd.

Which registries are mirrored is what --images says, or what the targets of --from need.`,
		Example: `  # For k3s and RKE2: /etc/rancher/k3s/registries.yaml
  pinnace mirror hosts registry.site.example/fleet --images docker.io,ghcr.io > registries.yaml

  # For containerd, below /etc/containerd/certs.d
  pinnace mirror hosts registry.site.example/fleet --format containerd --dir certs.d --from registry.example.com/fleet \
    --policy trust.yaml --node-ca-file /etc/ssl/site.pem`,
		Args: arguments(1, 1, "the receiver's prefix"),
		RunE: func(cmd *cobra.Command, args []string) error { return runMirrorHosts(cmd.Context(), s, args[0], opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.format, "format", "k3s", "k3s (for RKE2 too) or containerd")
	flags.StringSliceVar(&opts.images, "images", nil, "registries whose images are mirrored, such as docker.io; may be repeated")
	flags.StringVar(&opts.from, "from", "", "registry of the fleet, whose targets say which registries that are")
	flags.StringVar(&opts.caFile, "node-ca-file", "", "path, on the nodes, of the receiver's certificate authority")
	flags.BoolVar(&opts.fallback, "fallback", false, "let containerd ask the registries themselves for what the receiver lacks")
	flags.BoolVar(&opts.plainHTTP, "node-plain-http", false, "nodes reach the receiver by http, without TLS")
	flags.StringVar(&opts.dir, "dir", "", "folder to write containerd's files to; standard output when empty")
	opts.source.register(cmd)
	return cmd
}

func runMirrorHosts(ctx context.Context, s *session, receiver string, opts mirrorHostsOptions) error {
	if opts.format != "k3s" && opts.format != "containerd" {
		return usagef("--format %q is not known; use k3s or containerd", opts.format)
	}
	address, path, ok := strings.Cut(receiver, "/")
	if !ok || strings.Contains(receiver, "://") {
		return usagef("receiver %q: write it as host[:port]/path, as mirror sync has it", receiver)
	}
	hosts := mirror.Hosts{
		Receiver: address, Path: path, PlainHTTP: opts.plainHTTP, CAFile: opts.caFile, Images: opts.images, Fallback: opts.fallback,
	}
	if opts.from != "" {
		found, err := opts.found(ctx, s)
		if err != nil {
			return err
		}
		hosts.Images = append(hosts.Images, found...)
	}
	slices.Sort(hosts.Images)
	if hosts.Images = slices.Compact(hosts.Images); len(hosts.Images) == 0 {
		return usagef("no registry of images is named; name them with --images, or the fleet with --from")
	}
	if opts.format == "k3s" {
		data, err := hosts.K3s()
		if err != nil {
			return err
		}
		return s.printf("%s", data)
	}
	return s.writeHosts(hosts.Containerd(), opts.dir)
}

func (o *mirrorHostsOptions) found(ctx context.Context, s *session) ([]string, error) {
	_, closure, err := o.source.find(ctx, s, o.from, nil)
	if err != nil {
		return nil, err
	}
	return mirror.ImageHosts(closure), nil
}

func (s *session) writeHosts(files map[string][]byte, dir string) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if dir == "" {
			if err := s.printf("# %s\n%s\n", name, files[name]); err != nil {
				return err
			}
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write hosts.toml: %w", err)
		}
		if err := renameio.WriteFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("write hosts.toml: %w", err)
		}
		if err := s.printf("%s\n", path); err != nil {
			return err
		}
	}
	return nil
}
