package agentcli

import (
	"context"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// images verifies container images by the local policy: first beside the fleet's artifacts, where a mirror keeps them,
// then in their own registries.
type images struct {
	verifier   *signing.Verifier
	registries []oci.Registry
	spec       []v1alpha1.Registry
	userAgent  string
}

func (i images) ImageRules() bool { return i.verifier.ImageRules() }

func (i images) VerifyImage(ctx context.Context, reference string) error {
	return refused(i.verifier.VerifyImage(ctx, reference, i.places))
}

func (i images) places(image oci.ImageName) ([]oci.Repository, error) {
	var places []oci.Repository
	for _, registry := range i.registries {
		if repo, err := registry.Repository(image.Mirrored()); err == nil {
			places = append(places, repo)
		}
	}
	host, err := oci.OpenHost(image.Host, i.options(image.Host))
	if err != nil {
		return nil, err
	}
	repo, err := host.Repository(image.Repository)
	return append(places, repo), err
}

// options of an image's registry: those of the fleet's where it is the same, and its credentials anywhere.
func (i images) options(host string) oci.Options {
	options := oci.Options{UserAgent: i.userAgent}
	for n, registry := range i.spec {
		if name, _, _ := strings.Cut(strings.TrimPrefix(registry.Prefix, "oci://"), "/"); name == host {
			return registryOptions(registry, i.userAgent)
		}
		if n == 0 {
			options.DockerConfig = registry.DockerConfig
		}
	}
	return options
}

func registryOptions(registry v1alpha1.Registry, userAgent string) oci.Options {
	return oci.Options{
		PlainHTTP: registry.PlainHTTP, CAFile: registry.CAFile, DockerConfig: registry.DockerConfig,
		TokenHosts: registry.TokenHosts, UserAgent: userAgent,
	}
}
