package agent

import (
	"context"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Applying is the [Deployer] of v1alpha1.MethodApply: server-side apply of the bundle's manifests.
type Applying struct {
	Applier *apply.Applier
}

var _ Deployer = Applying{}

// Deploy applies the objects and prunes what left.
func (d Applying) Deploy(ctx context.Context, deployment Deployment) (apply.Result, error) {
	return d.Applier.Apply(ctx, bundleOf(deployment))
}

// Remove deletes what Previous lists.
func (d Applying) Remove(ctx context.Context, deployment Deployment) (apply.Result, error) {
	return d.Applier.Remove(ctx, bundleOf(deployment))
}

// Health of what Previous lists.
func (d Applying) Health(ctx context.Context, deployment Deployment) (apply.Health, error) {
	return healthOf(ctx, d.Applier, bundleOf(deployment), deployment)
}

func healthOf(ctx context.Context, applier *apply.Applier, bundle apply.Bundle, deployment Deployment) (apply.Health, error) {
	if deployment.Recheck {
		return applier.Recheck(ctx, bundle, deployment.Previous)
	}
	return applier.Health(ctx, bundle, deployment.Previous)
}

// Applied is the bundle as it was applied.
func (d Applying) Applied(_ context.Context, deployment Deployment) (apply.Bundle, error) {
	return bundleOf(deployment), nil
}

// bundleOf puts a deployment into the applier's words.
func bundleOf(deployment Deployment) apply.Bundle {
	return apply.Bundle{
		Name: deployment.Bundle.Name, Namespace: deployment.Bundle.Namespace, Objects: deployment.Objects,
		Options: optionsOf(deployment), Previous: deployment.Previous, InUse: deployment.InUse, Record: deployment.Record,
		Manager: v1alpha1.FieldManager,
	}
}

// optionsOf a bundle, with the service account that its scope imposes.
func optionsOf(deployment Deployment) v1alpha1.DeployOptions {
	options := deployment.Bundle.DeployOptions
	options.ServiceAccount = deployment.Scope.ServiceAccount
	return options
}
