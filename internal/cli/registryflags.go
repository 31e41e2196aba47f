package cli

import (
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci"
)

// registryFlags reach a registry.
type registryFlags struct {
	plainHTTP bool
	caFile    string
	config    string
	tokens    []string
}

func (f *registryFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "reach the registry by http, without TLS")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file with certificate authorities to trust beside the system's")
	flags.StringArrayVar(&f.tokens, "token-host", nil, "another host that the registry may issue its tokens on; may be repeated")
	flags.StringVar(&f.config, "registry-config", "", "credentials in the format of Docker's config.json; the user's own when empty")
}

func (f *registryFlags) options(s *session) oci.Options {
	return oci.Options{
		PlainHTTP:    f.plainHTTP,
		CAFile:       f.caFile,
		DockerConfig: f.config,
		TokenHosts:   f.tokens,
		UserAgent:    "pinnace/" + s.build().Version,
	}
}

// open does not touch the network: what it refuses is usage.
func (f *registryFlags) open(s *session, prefix string) (oci.Registry, error) {
	registry, err := oci.Open(prefix, f.options(s))
	return registry, ofInput(err)
}
