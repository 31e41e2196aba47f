package agent

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/crd"
	"pinnace.dev/pinnace/api/v1alpha1"
)

// install brings the custom resource definition of this agent's version to the cluster. An agent that may not do so
// lives with the one that is there.
func install(ctx context.Context, cluster client.Client) error {
	definition := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(crd.BundleDeployments, &definition.Object); err != nil {
		return fmt.Errorf("read the definition of BundleDeployments: %w", err)
	}
	unstructured.RemoveNestedField(definition.Object, "status")
	err := cluster.Apply(ctx, client.ApplyConfigurationFromUnstructured(definition),
		client.FieldOwner(v1alpha1.FieldManager), client.ForceOwnership)
	if err != nil && !apierrors.IsForbidden(err) {
		return fmt.Errorf("install the definition of BundleDeployments: %w", err)
	}
	return nil
}
