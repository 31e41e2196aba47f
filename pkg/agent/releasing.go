package agent

import (
	"context"
	"errors"

	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/agent/release"
)

// Releasing is the [Deployer] of v1alpha1.MethodRelease: Helm releases.
type Releasing struct {
	Releaser *release.Releaser
	Applier  *apply.Applier
}

var _ Deployer = Releasing{}

// Deploy installs or upgrades the release. What a chart and its hooks make is known only when Helm renders it, so a
// restricted source needs a service account, whose rights the cluster itself enforces.
func (d Releasing) Deploy(ctx context.Context, deployment Deployment) (apply.Result, error) {
	if !deployment.Scope.IsZero() && deployment.Scope.ServiceAccount == "" {
		return apply.Result{Inventory: deployment.Previous}, outOfScope(&deployment.Bundle,
			errors.New("a Helm release of a restricted source needs a service account, set as restrict.serviceAccount"))
	}
	return d.Releaser.Deploy(ctx, releaseOf(deployment))
}

// Remove uninstalls the release.
func (d Releasing) Remove(ctx context.Context, deployment Deployment) (apply.Result, error) {
	return d.Releaser.Remove(ctx, releaseOf(deployment))
}

// Health of the release's objects.
func (d Releasing) Health(ctx context.Context, deployment Deployment) (apply.Health, error) {
	return healthOf(ctx, d.Applier, releaseOf(deployment).AsBundle(), deployment)
}

// Applied is what the release consists of.
func (d Releasing) Applied(ctx context.Context, deployment Deployment) (apply.Bundle, error) {
	of := releaseOf(deployment)
	bundle := of.AsBundle()
	var err error
	bundle.Objects, err = d.Releaser.Objects(ctx, of)
	return bundle, err
}

// releaseOf puts a deployment into the releaser's words.
func releaseOf(deployment Deployment) release.Release {
	spec := deployment.Bundle.Release
	return release.Release{
		Bundle: deployment.Bundle.Name, Name: spec.Name, Namespace: deployment.Bundle.Namespace, Chart: deployment.Chart,
		Values: spec.Values, Helm: spec.HelmOptions, Options: optionsOf(deployment),
		Previous: deployment.Previous, InUse: deployment.InUse, Record: deployment.Record,
	}
}
