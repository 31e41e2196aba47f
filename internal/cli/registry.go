package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/registry"
)

func newRegistryCommand(s *session) *cobra.Command {
	return group("registry", "Run the embedded registry",
		"Run the registry that is built in: to try things out, for tests, and for a site that has none of its own.",
		newRegistryServeCommand(s))
}

type registryServeOptions struct {
	registry.Options
	notify     []string
	notifyAuth string
}

func newRegistryServeCommand(s *session) *cobra.Command {
	var opts registryServeOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve an OCI registry on a folder",
		Long: `Serve an OCI registry that keeps everything in one folder, until interrupted. It prints its address on stdout
as soon as it listens.

Without --htpasswd everybody who reaches the address may read and write.`,
		Example: `  # To try things out; clients need --plain-http
  pinnace registry serve --addr 127.0.0.1:5000 --root registry

  # For a site, with TLS and users, telling an agent about each push
  pinnace registry serve --addr :443 --root /var/lib/registry --cert-file tls.crt --key-file tls.key \
    --htpasswd users --notify http://agent.site.example:9443/registry`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRegistryServe(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Addr, "addr", "127.0.0.1:0", "address to listen on; port 0 takes a free one")
	flags.StringVar(&opts.Root, "root", "", "folder that keeps everything; memory when empty")
	flags.StringVar(&opts.CertFile, "cert-file", "", "certificate for TLS, PEM")
	flags.StringVar(&opts.KeyFile, "key-file", "", "key of the certificate, PEM")
	flags.StringVar(&opts.Htpasswd, "htpasswd", "", "file of users with bcrypt hashes, as htpasswd -B writes it")
	flags.StringArrayVar(&opts.notify, "notify", nil, "URL that is told about every push; may be repeated")
	flags.StringVar(&opts.notifyAuth, "notify-token-file", "", "file with the bearer token that notifications carry")
	return cmd
}

func runRegistryServe(ctx context.Context, s *session, opts registryServeOptions) error {
	headers := http.Header{}
	if opts.notifyAuth != "" {
		token, err := os.ReadFile(opts.notifyAuth)
		if err != nil {
			return fmt.Errorf("read --notify-token-file: %w", err)
		}
		headers.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	for _, url := range opts.notify {
		opts.Notify = append(opts.Notify, registry.Endpoint{URL: url, Headers: headers})
	}
	opts.Log = s.log()
	if opts.Root == "" {
		s.message(markWarning, "without --root everything is kept in memory and is gone afterwards")
	}
	return registry.Serve(ctx, opts.Options, func(addr string) {
		_ = s.printf("%s\n", addr)
		s.message(markDone, "registry listens on %s", addr)
	})
}
