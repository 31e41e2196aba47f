// Package kms signs with keys that never leave a key management service: AWS, Azure, Google Cloud and HashiCorp Vault or
// OpenBao, by cosign's URIs. Only the builder imports it: the providers' SDKs have no place in an agent.
package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	sigkms "github.com/sigstore/sigstore/pkg/signature/kms"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"        // awskms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"      // azurekms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"        // gcpkms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault" // hashivault://

	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Is says whether a key is named by a KMS's URI, such as awskms:///alias/release.
func Is(key string) bool {
	return slices.ContainsFunc(sigkms.SupportedProviders(), func(scheme string) bool { return strings.HasPrefix(key, scheme) })
}

// Schemes returns the URIs' beginnings, sorted.
func Schemes() []string { return slices.Sorted(slices.Values(sigkms.SupportedProviders())) }

// Open returns a signer for the key. It asks the service for the public key; credentials are found as the service's own
// tools find them, in the environment. Signatures are made in batches, since each is a request.
func Open(ctx context.Context, uri string) (*signing.Signer, error) {
	key, err := sigkms.Get(ctx, uri, crypto.SHA256)
	if missing := (*sigkms.ProviderNotFoundError)(nil); errors.As(err, &missing) {
		return nil, fmt.Errorf("key %s: no such service; use one of %s", uri, strings.Join(Schemes(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	signer, err := signing.NewSigner(ctx, key, true)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", uri, err)
	}
	return signer, nil
}
