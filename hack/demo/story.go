package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/e2e/harness"
)

// demo holds what the steps build up.
type demo struct {
	site     *harness.Site
	registry *harness.Registry
	fleet    *harness.Fleet
	clusters map[string]*harness.Cluster
	agents   map[string]*harness.Agent
}

// Clusters of the example fleet.
const (
	factory = "factory-01"
	store   = "store-42"
	ship    = "ship-7"
)

// story runs the steps in order.
func (d *demo) story(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"three control planes: " + strings.Join([]string{factory, store, ship}, ", "), d.startClusters},
		{"the registry, on a folder", d.startRegistry},
		{"keys, and a fleet repository on the Git server", d.makeFleet},
		{"pinnace publish: Git to signed bundles and targets", d.publish},
		{"three agents; every bundle is Ready on every cluster", d.startAgents},
		{"pinnace status", d.status},
		{"a commit that changes one bundle reaches only the clusters that it targets", d.changeOneBundle},
		{"a Deployment that was deleted comes back", d.deleteDeployment},
		{"a target signed with a wrong key is refused, and nothing on the cluster changes", d.forgeTarget},
		{"registry stopped, agent restarted: drift is still corrected", d.offline},
	} {
		if err := d.step(ctx, s.what, s.do); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startClusters(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(harness.ExampleBundles))
	clusters := make([]*harness.Cluster, len(names))
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range names {
		group.Go(func() (err error) {
			clusters[i], err = d.site.NewCluster(ctx, name)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	d.clusters = map[string]*harness.Cluster{}
	for _, cluster := range clusters {
		d.clusters[cluster.Name] = cluster
	}
	return nil
}

func (d *demo) startRegistry(ctx context.Context) (err error) {
	d.registry, err = d.site.NewRegistry(ctx, "registry")
	return err
}

func (d *demo) makeFleet(ctx context.Context) (err error) {
	if d.fleet, err = d.site.NewFleet(ctx, d.registry.Addr); err != nil {
		return err
	}
	d.agents = map[string]*harness.Agent{}
	for name, cluster := range d.clusters {
		key, err := d.site.NewKey(ctx, name)
		if err != nil {
			return err
		}
		if err := d.fleet.AddStatusKey(name, key); err != nil {
			return err
		}
		if d.agents[name], err = d.site.NewAgent(d.fleet, cluster, harness.AgentOptions{StatusKey: key}); err != nil {
			return err
		}
	}
	return d.fleet.Commit(ctx, "Keys that the clusters sign their status with")
}

func (d *demo) publish(ctx context.Context) error {
	publication, err := d.fleet.Publish(ctx)
	if err != nil {
		return err
	}
	if got, want := len(publication.Changed()), len(d.clusters); got != want {
		return fmt.Errorf("%d targets were published, want %d", got, want)
	}
	return nil
}

func (d *demo) startAgents(ctx context.Context) error {
	for _, agent := range d.agents {
		if err := agent.Start(); err != nil {
			return err
		}
	}
	return d.waitReady(ctx)
}

func (d *demo) waitReady(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for name, cluster := range d.clusters {
		group.Go(func() error { return cluster.WaitReady(ctx, harness.ExampleBundles[name]...) })
	}
	return group.Wait()
}

// status waits until every cluster has reported, and prints what people see.
func (d *demo) status(ctx context.Context) error {
	var out string
	err := harness.Until(ctx, "every cluster to report", func(ctx context.Context) (err error) {
		out, err = d.fleet.Status(ctx)
		return err // the command ends with 1 until everything is ready
	})
	fmt.Printf("\n%s\n", out)
	return err
}

func (d *demo) changeOneBundle(ctx context.Context) error {
	before, err := d.clusters[store].Versions(ctx)
	if err != nil {
		return err
	}
	if err := d.fleet.Replace("bundles/sensors/pinnace.yaml", "SEND_EVERY: 10s", "SEND_EVERY: 20s"); err != nil {
		return err
	}
	if err := d.fleet.Replace("bundles/sensors/config.yaml", "site = ", "location = "); err != nil {
		return err
	}
	if err := d.fleet.Commit(ctx, "Sensors: another format"); err != nil {
		return err
	}
	publication, err := d.fleet.Publish(ctx)
	if err != nil {
		return err
	}
	changed := slices.Sorted(slices.Values(publication.Changed()))
	if want := []string{factory, ship}; !slices.Equal(changed, want) {
		return fmt.Errorf("the targets of %v changed, want %v", changed, want)
	}
	group, changing := errgroup.WithContext(ctx)
	for _, name := range changed {
		group.Go(func() error {
			return harness.Until(changing, "the change on "+name, func(ctx context.Context) error {
				var config corev1.ConfigMap
				if err := d.clusters[name].Client.Get(ctx, client.ObjectKey{Namespace: "sensors", Name: "collector"}, &config); err != nil {
					return err
				}
				if !strings.Contains(config.Data["collector.conf"], "location = ") {
					return errors.New("the ConfigMap is still the old one")
				}
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return d.unchanged(ctx, store, before)
}

// unchanged says whether nobody wrote to a cluster since.
func (d *demo) unchanged(ctx context.Context, cluster string, before map[string]string) error {
	after, err := d.clusters[cluster].Versions(ctx)
	if err != nil {
		return err
	}
	for name, version := range after {
		if before[name] != version {
			return fmt.Errorf("%s on %s was written to", name, cluster)
		}
	}
	if len(after) != len(before) {
		return fmt.Errorf("%s had %d objects and has %d", cluster, len(before), len(after))
	}
	return nil
}

func (d *demo) deleteDeployment(ctx context.Context) error {
	if err := d.clusters[factory].WaitRecreated(ctx, &appsv1.Deployment{}, "shop", "shop"); err != nil {
		return err
	}
	return d.waitReady(ctx)
}

// forgeTarget offers a newer target without bundles, signed by somebody else.
func (d *demo) forgeTarget(ctx context.Context) error {
	intruder, err := d.site.NewKey(ctx, "intruder")
	if err != nil {
		return err
	}
	target, genuine, err := d.fleet.Target(ctx, ship)
	if err != nil {
		return err
	}
	before, err := d.clusters[ship].Versions(ctx)
	if err != nil {
		return err
	}
	forged := target
	forged.Generation++
	forged.AllowPrune, forged.Bundles = true, nil
	if err := d.fleet.PushTarget(ctx, ship, forged, intruder); err != nil {
		return err
	}
	// The refusal is reported, to people and to the builder.
	if err := harness.Until(ctx, "the refusal in pinnace status", func(ctx context.Context) error {
		out, err := d.fleet.Status(ctx, "-o", "wide")
		if err == nil || !strings.Contains(out, "KeyNotTrusted") && !strings.Contains(out, "SignatureMismatch") {
			return fmt.Errorf("it says (%w):\n%s", err, out)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := d.unchanged(ctx, ship, before); err != nil {
		return err
	}
	return d.fleet.SetCurrent(ctx, ship, genuine)
}

func (d *demo) offline(ctx context.Context) error {
	if err := d.registry.Stop(); err != nil {
		return err
	}
	agent := d.agents[ship]
	agent.Kill() // as a power cut would
	cluster := d.clusters[ship]
	if _, err := cluster.UID(ctx, &appsv1.Deployment{}, "sensors", "collector"); err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	if err := cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "sensors", "collector"); err != nil {
		return err
	}
	return d.registry.Start(ctx)
}

// explain says how to reach each part while everything is up.
func (d *demo) explain() {
	fmt.Printf("\nKEEP=1: everything stays up until Ctrl-C.\n\n")
	fmt.Printf("  fleet repository  git clone %s; it takes pushes\n", d.fleet.URL)
	fmt.Printf("  registry          %s (plain http, on %s)\n", d.fleet.Prefix, d.registry.Root)
	fmt.Printf("  signing key       %s (COSIGN_PASSWORD=%q)\n", d.fleet.Key.Private, harness.Password)
	for _, name := range slices.Sorted(maps.Keys(d.clusters)) {
		fmt.Printf("  %-17s %s --kubeconfig %s get bundledeployments\n", name, d.site.Plane.Kubectl(), d.clusters[name].Kubeconfig)
		fmt.Printf("  %-17s http://%s/metrics, log %s\n", "", d.agents[name].Listen, d.agents[name].LogFile())
	}
	fmt.Printf("\n  Publish again:    COSIGN_PASSWORD=%q %s publish --fleet %s --registry %s --plain-http --key %s\n",
		harness.Password, filepath.Join(d.site.Bin, "pinnace"), d.fleet.URL, d.fleet.Prefix, d.fleet.Key.Private)
}
