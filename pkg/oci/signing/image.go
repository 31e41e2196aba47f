package signing

import (
	"context"
	"fmt"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// ImageRules says whether the policy has rules for container images: then every image must be verified before what names
// it is applied.
func (v *Verifier) ImageRules() bool { return v.current.Load().images }

// VerifyImage checks the signatures of a container image, such as ghcr.io/acme/app@sha256:…, against the policy's rules
// that begin with images://. open reaches a repository of a registry by its full name. An image that is named without
// its digest is refused: whoever moves the tag chooses what runs.
func (v *Verifier) VerifyImage(ctx context.Context, reference string, open func(host, repository string) (oci.Repository, error)) error {
	image, err := oci.ParseImage(reference)
	if err != nil {
		return v.refuseImage(&Error{Reason: ImageNotPinned, Repository: v1alpha1.ImageScheme + reference, Message: err.Error()})
	}
	name := v1alpha1.ImageScheme + image.Host + "/" + image.Repository
	rules := v.current.Load()
	switch rule := rules.rule(name); {
	case rules.trustAll || rule != nil && rule.unsigned:
		return nil
	case rule == nil:
		return v.refuseImage(&Error{
			Reason: NoRule, Repository: name, Digest: image.Digest,
			Message: "the trust policy has rules for images, and none that matches; add one with match: " + name + " (with unsafeAllowUnsigned: true, where nobody signs it)",
		})
	case image.Digest == "":
		return v.refuseImage(&Error{
			Reason: ImageNotPinned, Repository: name, Rule: rule.match.text,
			Message: fmt.Sprintf("image %s is named without its digest, so whoever may move the tag chooses what runs; write %s/%s@sha256:…", reference, image.Host, image.Repository),
		})
	}
	repo, err := open(image.Host, image.Repository)
	if err != nil {
		return fmt.Errorf("image %s: %w", reference, err)
	}
	desc, err := repo.Resolve(ctx, image.Digest.String())
	if err != nil {
		return fmt.Errorf("image %s: %w", reference, err)
	}
	_, err = v.Verify(ctx, repo, name, desc)
	return err
}

func (v *Verifier) refuseImage(refusal *Error) error {
	if warn := v.current.Load().warn; warn != nil {
		warn(refusal)
		return nil
	}
	return refusal
}
