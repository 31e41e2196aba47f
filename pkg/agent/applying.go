package agent

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

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
	bundle := bundleOf(deployment)
	touched := apply.Inventory{}
	for _, object := range bundle.Objects {
		ref := apply.RefOf(object)
		switch {
		case d.ClusterKind(object.GroupVersionKind()):
			ref.Namespace = ""
		case ref.Namespace == "":
			ref.Namespace = bundle.Namespace
		}
		touched = append(touched, ref)
	}
	if err := deployment.Record(touched); err != nil {
		return apply.Result{Inventory: deployment.Previous}, err
	}
	return d.Applier.Apply(ctx, bundle)
}

// Remove deletes what Previous lists.
func (d Applying) Remove(ctx context.Context, deployment Deployment) (apply.Result, error) {
	return d.Applier.Remove(ctx, bundleOf(deployment))
}

// Health of what Previous lists.
func (d Applying) Health(ctx context.Context, deployment Deployment) (apply.Health, error) {
	return d.Applier.Health(ctx, bundleOf(deployment), deployment.Previous)
}

// Applied is the bundle as it was applied.
func (d Applying) Applied(_ context.Context, deployment Deployment) (apply.Bundle, error) {
	return bundleOf(deployment), nil
}

// ClusterKind reports whether the cluster serves a kind that is cluster-scoped. It may ask the cluster.
func (d Applying) ClusterKind(kind schema.GroupVersionKind) bool {
	apiVersion, name := kind.ToAPIVersionAndKind()
	mapping, err := d.Applier.Kinds().Mapping(context.Background(), apply.Ref{APIVersion: apiVersion, Kind: name})
	return err == nil && !mapping.Namespaced
}

// bundleOf puts a deployment into the applier's words.
func bundleOf(deployment Deployment) apply.Bundle {
	options := deployment.Bundle.DeployOptions
	options.ServiceAccount = deployment.Scope.ServiceAccount
	namespace := deployment.Bundle.Namespace
	if namespace == "" {
		namespace = defaultNamespace
	}
	return apply.Bundle{
		Name: deployment.Bundle.Name, Namespace: namespace, Objects: deployment.Objects, Options: options,
		Previous: deployment.Previous, InUse: deployment.InUse, Manager: v1alpha1.FieldManager,
	}
}

// defaultNamespace receives objects of bundles that name none.
const defaultNamespace = "default"
