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
		newRegistryServeCommand(s), newRegistryCheckCommand(s), newRegistryGCCommand(s))
}

type registryServeOptions struct {
	registry.Options
	notify               []string
	notifyAuth           string
	token                registry.Token
	upstream             registry.Upstream
	upstreamPasswordFile string
}

func newRegistryServeCommand(s *session) *cobra.Command {
	var opts registryServeOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve an OCI registry on a folder",
		Long: `Serve an OCI registry that keeps everything in one folder, until interrupted. It prints its address on stdout
as soon as it listens.

Without --htpasswd or --token-realm everybody who reaches the address may read and write.

With --collect-every it deletes what nothing refers to while it runs: what pinnace mirror prune let go, above all. With
--upstream it asks another registry for what it doesn't have, and keeps it; nothing can be pushed to it then.`,
		Example: `  # To try things out; clients need --plain-http
  pinnace registry serve --addr 127.0.0.1:5000 --root registry

  # For a site, with TLS and users, telling an agent about each push
  pinnace registry serve --addr :443 --root /var/lib/registry --cert-file tls.crt --key-file tls.key \
    --htpasswd users --collect-every 24h --notify http://agent.site.example:9443/registry

  # Where a link exists: keep what nodes and agents pull from the centre
  pinnace registry serve --addr :5000 --root /var/cache/registry --upstream https://registry.example.com`,
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
	flags.StringVar(&opts.token.Realm, "token-realm", "", "URL of a token service that lets clients in, instead of --htpasswd")
	flags.StringVar(&opts.token.Service, "token-service", "", "name of this registry in the token service's tokens")
	flags.StringVar(&opts.token.Issuer, "token-issuer", "", "name of the token service in its tokens")
	flags.StringVar(&opts.token.CertFile, "token-cert-file", "", "certificates, PEM, of the keys that sign tokens")
	flags.StringVar(&opts.token.JWKSFile, "token-jwks-file", "", "JSON web keys that sign tokens, instead of certificates")
	flags.StringVar(&opts.upstream.URL, "upstream", "", "registry to ask for what isn't here: https://host[:port]")
	flags.StringVar(&opts.upstream.Username, "upstream-user", "", "user at the upstream")
	flags.StringVar(&opts.upstreamPasswordFile, "upstream-password-file", "", "file with the user's password in its first line")
	flags.DurationVar(&opts.upstream.TTL, "upstream-ttl", 0, "how long what was pulled is kept; for ever when 0")
	flags.BoolVar(&opts.ReadOnly, "read-only", false, "refuse everything that writes: the folder is filled by pinnace mirror import --root")
	flags.DurationVar(&opts.CollectEvery, "collect-every", 0, "how often what nothing refers to is deleted; never when 0")
	flags.DurationVar(&opts.CollectGrace, "collect-grace", registry.DefaultGrace, "leave alone what came, or was asked for, within this time")
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
	if opts.token != (registry.Token{}) {
		opts.Token = &opts.token
	}
	if opts.upstream.URL != "" {
		if opts.upstreamPasswordFile != "" {
			password, err := s.password(opts.upstreamPasswordFile, false)
			if err != nil {
				return err
			}
			opts.upstream.Password = string(password)
		}
		opts.Upstream = &opts.upstream
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
