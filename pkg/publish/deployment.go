package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/manifests"
	"pinnace.dev/pinnace/pkg/publish/preview"
	"pinnace.dev/pinnace/pkg/target"
)

// What [Render] finds no answer for.
var (
	ErrNotInFleet  = errors.New("not in the fleet")
	ErrNotSelected = errors.New("the cluster does not get the bundle")
)

// Deployment is what one cluster would get of one bundle.
type Deployment struct {
	Cluster string
	// Bundle is what the cluster's target would say of it.
	Bundle v1alpha1.TargetBundle
	// Objects are what the agent would apply, variables replaced, or what Helm would make of the chart there.
	Objects []*unstructured.Unstructured
}

// Render makes the objects of a bundle as a cluster would get them from the fleet as it stands. Nothing is read of what
// is published, nor of the cluster.
func Render(ctx context.Context, opts LoadOptions, cluster, bundle string) (Deployment, error) {
	loaded, err := Load(ctx, opts)
	if err != nil {
		return Deployment{}, err
	}
	i := slices.IndexFunc(loaded.Fleet.Clusters, func(c target.Cluster) bool { return c.Metadata.Name == cluster })
	if i < 0 {
		return Deployment{}, fmt.Errorf("cluster %q is %w; pinnace target lists all", cluster, ErrNotInFleet)
	}
	plan, err := loaded.Fleet.PlanCluster(i)
	if err != nil {
		return Deployment{}, err
	}
	at := slices.IndexFunc(plan.Assignments, func(a target.Assignment) bool { return a.Bundle.Metadata.Name == bundle })
	if at < 0 {
		return Deployment{}, fmt.Errorf("bundle %q is %w; pinnace target %s lists all", bundle, ErrNotInFleet, cluster)
	}
	assignment := plan.Assignments[at]
	if !assignment.Selected {
		return Deployment{}, fmt.Errorf("%w: %s on %s: %s", ErrNotSelected, bundle, cluster, assignment.Why)
	}
	plan.Assignments = plan.Assignments[at : at+1]
	built := variants{}
	built.add(assignment, loaded.found[bundle])
	variant := built[assignment.Variant]
	if err := variant.build(ctx, "", "", v1alpha1.FleetIndex{}); err != nil {
		return Deployment{}, err
	}
	out := Deployment{Cluster: cluster, Bundle: loaded.Fleet.Assemble(plan, built.artifact).Bundles[0]}
	layer, err := variant.layer(ctx)
	if err != nil {
		return out, err
	}
	if out.Objects, err = preview.Objects(out.Bundle, layer); err != nil {
		return out, fmt.Errorf("bundle %q: %w", bundle, err)
	}
	if len(out.Bundle.VariablesFrom) > 0 {
		return out, nil // only the cluster knows them
	}
	if err := manifests.Substitute(out.Objects, out.Bundle.Variables); err != nil {
		return out, fmt.Errorf("bundle %q: %w; set it in spec.variables, or give it a default as in ${NAME:=value}", bundle, err)
	}
	return out, nil
}
