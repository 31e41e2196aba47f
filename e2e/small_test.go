package e2e

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/e2e/harness"
)

// smallFleet is a fleet of one cluster and bundles of plain manifests, each in a namespace of its own name. It is committed.
func smallFleet(t *testing.T, addr, cluster string, bundles map[string]string) *harness.Fleet {
	t.Helper()
	fleet := newFleet(t, addr)
	ok(t, fleet.Remove("bundles"))
	ok(t, fleet.Remove("clusters"))
	ok(t, fleet.Write("clusters/"+cluster+".yaml",
		"apiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata: {name: "+cluster+", labels: {tier: edge}}\n"))
	for name, manifests := range bundles {
		ok(t, fleet.Write("bundles/"+name+"/pinnace.yaml", bundleIn(name)))
		ok(t, fleet.Write("bundles/"+name+"/manifests.yaml", manifests))
	}
	commit(t, fleet, "A small fleet")
	return fleet
}

func bundleIn(namespace string) string {
	return "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec:\n  namespace: " + namespace + "\n"
}

func textOf(name, text string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {text: %q}\n", name, text)
}

// waitText waits until the ConfigMap of a bundle says that text.
func waitText(t *testing.T, cluster *harness.Cluster, bundle, text string) {
	t.Helper()
	ok(t, harness.Until(t.Context(), bundle+" to say "+text, func(ctx context.Context) error {
		config := &corev1.ConfigMap{}
		if err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: bundle, Name: bundle}, config); err != nil {
			return err
		}
		if config.Data["text"] != text {
			return fmt.Errorf("it says %q", config.Data["text"])
		}
		return nil
	}))
}
