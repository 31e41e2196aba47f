package publish

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/publish/preview"
)

// side is what a cluster gets of a bundle, before or after.
type side struct {
	digest  string
	objects []*unstructured.Unstructured
	// problem says why there are no objects, such as a chart that needs values which only the cluster has.
	problem error
}

// side reads what was built just now, or else what was before.
func (d *differ) side(ctx context.Context, bundle *v1alpha1.TargetBundle, built map[string]*variant) (side, error) {
	out := side{digest: bundle.Digest}
	layer, err := built[bundle.Name+"@"+bundle.Digest].layer(ctx)
	if err != nil {
		return out, err
	}
	if layer == nil {
		if layer, err = d.before.layer(ctx, bundle); err != nil {
			return out, err
		}
	}
	out.objects, out.problem = preview.Objects(*bundle, layer)
	if bundle.Release != nil && len(bundle.Release.ValuesFrom) > 0 && out.problem != nil {
		out.problem = fmt.Errorf("the chart may need what valuesFrom reads on the cluster: %w", out.problem)
	}
	return out, nil
}

// layer returns the content that was built or found in another registry; nil when it was not built because it is published already.
func (v *variant) layer(ctx context.Context) ([]byte, error) {
	switch {
	case v == nil:
		return nil, nil
	case v.found.prebuilt != nil:
		return v.found.prebuilt.bundle.Content(ctx)
	case len(v.artifact.Layers) == 0:
		return nil, nil
	case v.shelf != nil:
		return v.shelf.get(v.index.LayerDigest)
	}
	return v.artifact.Layers[0].Data, nil
}
