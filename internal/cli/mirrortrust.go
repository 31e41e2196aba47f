package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

// mirrorTrust says whose signatures count: a policy, or keys of which one must have signed.
type mirrorTrust struct {
	policy     string
	publicKeys []string
}

func (f *mirrorTrust) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.policy, "policy", "", "trust policy, a TrustPolicy document; with a root of trust, that is followed where the content is read")
	flags.StringArrayVar(&f.publicKeys, "public-key", nil, "public key, PEM, that may have signed, instead of a policy; may be repeated")
}

// verifier is the policy's, or the keys', or, where neither is named, the signer's own.
func (f *mirrorTrust) verifier(ctx context.Context, s *session, signer *signing.Signer) (*mirrorVerifier, error) {
	switch {
	case f.policy != "" && len(f.publicKeys) > 0:
		return nil, usagef("--policy and --public-key exclude each other; give one")
	case f.policy != "":
		return loadMirrorPolicy(s, f.policy)
	case len(f.publicKeys) == 0 && signer != nil:
		own, err := signer.Verifier(ctx)
		return &mirrorVerifier{local: own}, err
	case len(f.publicKeys) == 0:
		return nil, usagef("say whom to trust: --policy trust.yaml, or --public-key cosign.pub")
	}
	var signers v1alpha1.Signers
	for _, file := range f.publicKeys {
		data, err := readSmallFile(file)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		signers.Keys = append(signers.Keys, v1alpha1.PublicKey{Name: filepath.Base(file), PublicKey: string(data)})
	}
	verifier, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{
		Rules: []v1alpha1.TrustRule{{Match: "**", Signers: signers}},
	}}, signing.Options{})
	return &mirrorVerifier{local: verifier}, ofInput(err)
}

// mirrorVerifier goes by a policy, and by its root of trust where it has one: as agents do.
type mirrorVerifier struct {
	local  *signing.Verifier   // nil where everything is delegated to the root
	rooted *trustroot.Verifier // nil without a root
}

var (
	_ mirror.ImageVerifier = (*mirrorVerifier)(nil)
	_ mirror.Follower      = (*mirrorVerifier)(nil)
)

func loadMirrorPolicy(s *session, file string) (*mirrorVerifier, error) {
	data, err := readSmallFile(file)
	if err != nil {
		return nil, usagef("trust policy: %w", err)
	}
	policy, _, err := document.Decode[v1alpha1.TrustPolicy](file, data, v1alpha1.KindTrustPolicy)
	if err != nil {
		return nil, ofInput(err)
	}
	v := &mirrorVerifier{}
	root := policy.Spec.Root
	if root == nil || !root.Delegate || len(policy.Spec.Rules) > 0 {
		if v.local, err = loadRules(s, file); err != nil {
			return nil, err
		}
	}
	if root == nil {
		return v, nil
	}
	name := root.File
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(file), name)
	}
	pinned, err := readSmallFile(name)
	if err != nil {
		return nil, usagef("%s: spec.root.file: %w", file, err)
	}
	if v.rooted, err = trustroot.NewVerifier(pinned, trustroot.Options{Delegate: root.Delegate, Local: v.local}); err != nil {
		return nil, usagef("%s: spec.root: %w", file, err)
	}
	return v, nil
}

// Verify checks the signatures of an artifact; those of images are the policy's own.
func (v *mirrorVerifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	if v.rooted != nil && !strings.HasPrefix(name, v1alpha1.ImageScheme) {
		return v.rooted.Verify(ctx, repo, name, desc)
	}
	return v.local.Verify(ctx, repo, name, desc)
}

// ImageRules says whether the policy speaks of images.
func (v *mirrorVerifier) ImageRules() bool { return v.local != nil && v.local.ImageRules() }

// VerifyImage checks an image by the policy's rules for images.
func (v *mirrorVerifier) VerifyImage(ctx context.Context, reference string, places func(oci.ImageName) ([]oci.Repository, error)) error {
	return v.local.VerifyImage(ctx, reference, places)
}

// Follow takes newer versions of the trust root from a registry or a medium.
func (v *mirrorVerifier) Follow(ctx context.Context, registry oci.Registry) error {
	if v.rooted == nil {
		return nil
	}
	_, err := v.rooted.Refresh(ctx, registry, 0, clock())
	for _, refusal := range []error{trustroot.ErrExpired, trustroot.ErrRollback, trustroot.ErrIncomplete, trustroot.ErrInvalid} {
		if errors.Is(err, refusal) {
			return codef(exitcode.Refused, "trust root of %s: %w", registry, err)
		}
	}
	if err != nil {
		return fmt.Errorf("trust root of %s: %w", registry, err)
	}
	return nil
}

// trustIndex verifies what is signed around a medium, by the policy's rule for the repository "mirror".
func (v *mirrorVerifier) trustIndex() medium.Trust {
	return func(_ context.Context, payloadType string, envelope []byte) ([]byte, []string, error) {
		if v.local == nil {
			return nil, nil, usagef("the trust policy delegates everything to its root, which says nothing of media; add a rule with match: %s", mirror.RepositoryReceipt)
		}
		return v.local.OpenEnvelope(mirror.RepositoryReceipt, payloadType, envelope)
	}
}
