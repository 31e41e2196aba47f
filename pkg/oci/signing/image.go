package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// ImageRules says whether the policy has rules for container images: then every image must be verified before what names
// it is applied.
func (v *Verifier) ImageRules() bool { return v.current.Load().images }

// VerifyImage checks the signatures of a container image, such as ghcr.io/acme/app@sha256:…, against the policy's rules
// that begin with images://. places are the repositories that may hold it, in order of preference: one that has it and
// enough signatures suffices. An image that is named without its digest is refused: whoever moves the tag chooses what
// runs.
func (v *Verifier) VerifyImage(ctx context.Context, reference string, places func(oci.ImageName) ([]oci.Repository, error)) error {
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
	repos, err := places(image)
	if err != nil {
		return fmt.Errorf("image %s: %w", reference, err)
	}
	var problems []error
	for _, repo := range repos {
		desc, err := repo.Resolve(ctx, image.Digest.String())
		if err == nil {
			_, err = v.Verify(ctx, repo, name, desc)
		}
		if err == nil {
			return nil
		}
		problems = append(problems, err)
	}
	return worst(problems)
}

// worst is the refusal among errors; without one what may be otherwise next time; or that nobody has it.
func worst(problems []error) error {
	for _, telling := range []func(error) bool{
		func(err error) bool { return errors.As(err, new(*Error)) },
		func(err error) bool { return !errors.Is(err, oci.ErrNotFound) },
	} {
		if i := slices.IndexFunc(problems, telling); i >= 0 {
			return problems[i]
		}
	}
	return errors.Join(problems...)
}

func (v *Verifier) refuseImage(refusal *Error) error {
	if warn := v.current.Load().warn; warn != nil {
		warn(refusal)
		return nil
	}
	return refusal
}
