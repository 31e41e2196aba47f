package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/manifests"
)

// ImageVerifier checks container images by the trust policy's rules for them. It may be used concurrently.
type ImageVerifier interface {
	// ImageRules says whether there are any: without, no image is looked at.
	ImageRules() bool
	// VerifyImage checks the signatures of an image, wherever it is to be had: beside the fleet's artifacts on a mirror,
	// or in its own registry.
	VerifyImage(ctx context.Context, reference string) error
}

// verifyImages checks every image that a bundle names, before it is applied. What was applied as it is now was checked
// then: enforcing it again, after a reboot or without a network, needs no registry.
func (a *Agent) verifyImages(ctx context.Context, deployment *Deployment, recorded *Record) error {
	want := &deployment.Bundle
	if a.cfg.Images == nil || !a.cfg.Images.ImageRules() || appliedAs(recorded, want) {
		return nil
	}
	bundle, err := a.content.open(ctx, want)
	if err != nil {
		return bundleProblem(StageFetch, want, err)
	}
	images := manifests.Images(deployment.Objects)
	for _, image := range bundle.Config.Images {
		// One with a variable in it is among the objects' as it will run. A chart's, and custom resources', stand here only.
		if !strings.Contains(image.Reference, "$") && !slices.Contains(images, image.Reference) {
			images = append(images, image.Reference)
		}
	}
	for _, image := range images {
		if err := a.cfg.Images.VerifyImage(ctx, image); err != nil {
			return bundleProblem(StageVerify, want, fmt.Errorf("image %s: %w", image, err))
		}
	}
	return nil
}

// appliedAs reports whether a bundle was applied wholly, exactly as it is wanted.
func appliedAs(recorded *Record, want *v1alpha1.TargetBundle) bool {
	if recorded == nil || !recorded.Complete {
		return false
	}
	// As JSON: one of the two was read from the disk.
	before, errBefore := json.Marshal(&recorded.Bundle)
	now, errNow := json.Marshal(want)
	return errBefore == nil && errNow == nil && bytes.Equal(before, now)
}
