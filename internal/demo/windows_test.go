package demo

import (
	"fmt"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Windows from the fleet's files to what clusters run: the fleet's hold for bundles that name none, a bundle's own in
// place of the fleet's, and a cluster's beside both.
func TestWindowsOfFleetBundleAndCluster(t *testing.T) {
	t.Parallel()
	opts := quick(MinClusters)
	opts.Strategy = "\n"
	d := start(t, opts)
	d.ready(t)
	before := map[string]map[string]string{}
	for _, one := range d.Agents {
		before[one.Name] = one.Cluster.Runs()
	}
	closed := fmt.Sprintf("windows: [{cron: %q, duration: 1h}]", time.Now().UTC().Add(12*time.Hour).Format("4 15 * * *"))
	const open = `windows: [{cron: "0 0 * * *", duration: 24h}]`
	edits := []struct{ file, from, to string }{
		{"pinnace.yaml", "  defaults:\n", "  defaults:\n    " + closed + "\n"},
		{"bundles/shop/pinnace.yaml", "  namespace: shop\n", "  namespace: shop\n  " + open + "\n"},
		{"clusters/all.yaml", "name: store-01\n  labels: {region: us, tier: edge, site: store}\nspec:\n", "name: store-01\n  labels: {region: us, tier: edge, site: store}\nspec:\n  " + closed + "\n"},
		{"bundles/clock/deployment.yaml", "replicas: 1", "replicas: 2"},
		{"bundles/shop/base/deployment.yaml", "nginx:1.29-alpine", "nginx:1.29.1-alpine"},
	}
	for _, edit := range edits {
		if err := replace(d.Fleet, edit.file, edit.from, edit.to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Which of the changed bundles waits where.
	waits := map[string]map[string]bool{
		"factory-01": {"clock": true, "shop": false},
		"store-01":   {"clock": true, "shop": true},
		"ship-01":    {"clock": true}, // shop is ashore
	}
	until(t, "what waits says so, and the rest is there", func() error {
		for _, report := range d.options(t).Reports {
			if report.Status == nil {
				return fmt.Errorf("a cluster has not reported")
			}
			cluster, seen := report.Status.Cluster, 0
			for _, bundle := range report.Status.Bundles {
				wait, changed := waits[cluster][bundle.Name]
				waiting := bundle.State == v1alpha1.StateWaiting && bundle.Reason == v1alpha1.ReasonHeld
				ran := d.Agent(cluster).Cluster.Runs()[bundle.Name] == before[cluster][bundle.Name]
				if changed && (waiting != wait || ran != wait) || !changed && !ran {
					return fmt.Errorf("%s on %s is %s %s, runs what it ran: %v", bundle.Name, cluster, bundle.State, bundle.Reason, ran)
				}
				if changed {
					seen++
				}
			}
			if seen != len(waits[cluster]) {
				return fmt.Errorf("%s reports %d of the changed bundles", cluster, seen)
			}
		}
		return nil
	})
	// Published without windows it comes at once.
	for _, edit := range edits[:3] {
		if err := replace(d.Fleet, edit.file, edit.to, edit.from); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.ready(t)
	for cluster, bundles := range waits {
		for bundle := range bundles {
			if d.Agent(cluster).Cluster.Runs()[bundle] == before[cluster][bundle] {
				t.Errorf("%s still runs the old %s", cluster, bundle)
			}
		}
	}
}
