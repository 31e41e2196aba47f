package main

import (
	"context"
	"fmt"
	"strings"

	"pinnace.dev/pinnace/e2e/harness"
)

// Sizes of the fleet.
const (
	fiftyBundles = 50
	fiftyObjects = 10
)

// appSizes are how many bundles of one Deployment the clusters apps-… run.
var appSizes = []int{1, 10, 100, 1000}

// fiftyCluster runs the bundles of ten objects.
const fiftyCluster = "fifty"

// bench is one run.
type bench struct {
	site     *harness.Site
	registry *harness.Registry
	meter    *meter
	fleet    *harness.Fleet
}

// publish makes the registry and publishes the fleet.
func (b *bench) publish(ctx context.Context) error {
	var err error
	if b.registry, err = b.site.NewRegistry(ctx, "registry"); err != nil {
		return err
	}
	if b.meter, err = newMeter(ctx, b.registry.Addr); err != nil {
		return err
	}
	if b.fleet, err = b.site.NewFleet(ctx, b.meter.addr); err != nil {
		return err
	}
	for _, folder := range []string{"bundles", "clusters"} {
		if err := b.fleet.Remove(folder); err != nil {
			return err
		}
	}
	if err := b.write(clusters()); err != nil {
		return err
	}
	for i := range fiftyBundles {
		name := fmt.Sprintf("fifty-%02d", i)
		if err := b.write(map[string]string{
			"bundles/" + name + "/pinnace.yaml": bundle(name, name, "clusterName: "+fiftyCluster, true),
			manifest(name):                      tenObjects(name),
		}); err != nil {
			return err
		}
	}
	return b.publishApps(ctx, true)
}

// publishApps writes the bundles of one Deployment and publishes all.
func (b *bench) publishApps(ctx context.Context, wait bool) error {
	for i := range appSizes[len(appSizes)-1] {
		name := fmt.Sprintf("app-%04d", i)
		var sizes []string
		for _, size := range appSizes {
			if i < size {
				sizes = append(sizes, fmt.Sprintf("%q", fmt.Sprint(size)))
			}
		}
		if err := b.write(map[string]string{
			"bundles/" + name + "/pinnace.yaml": bundle(name, "apps",
				"clusterSelector: {matchExpressions: [{key: apps, operator: In, values: ["+strings.Join(sizes, ", ")+"]}]}", wait),
			manifest(name): deployment(name),
		}); err != nil {
			return err
		}
	}
	return b.commit(ctx, "bundles")
}

func (b *bench) commit(ctx context.Context, message string) error {
	if err := b.fleet.Commit(ctx, message); err != nil {
		return err
	}
	_, err := b.fleet.Publish(ctx)
	return err
}

func (b *bench) write(files map[string]string) error {
	for name, content := range files {
		if err := b.fleet.Write(name, content); err != nil {
			return err
		}
	}
	return nil
}

func manifest(bundle string) string { return "bundles/" + bundle + "/manifests.yaml" }

func clusters() map[string]string {
	cluster := func(name, labels string) string {
		return "apiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata: {name: " + name + ", labels: {" + labels + "}}\n"
	}
	files := map[string]string{"clusters/" + fiftyCluster + ".yaml": cluster(fiftyCluster, "")}
	for _, size := range appSizes {
		files["clusters/"+appCluster(size)+".yaml"] = cluster(appCluster(size), fmt.Sprintf("apps: %q", fmt.Sprint(size)))
	}
	return files
}

func appCluster(size int) string { return fmt.Sprintf("apps-%d", size) }

func bundle(name, namespace, target string, wait bool) string {
	return fmt.Sprintf(`apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: %s}
spec:
  namespace: %s
  targets: [{name: size, %s}]
  health: {wait: %t}
`, name, namespace, target, wait)
}

func deployment(name string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers: [{name: main, image: registry.example.com/app:1, resources: {requests: {cpu: 1m, memory: 1Mi}}}]
`, name)
}

// tenObjects of a usual bundle; the line "greeting" is the one that changes.
func tenObjects(name string) string {
	return deployment(name) + fmt.Sprintf(`---
{apiVersion: v1, kind: Service, metadata: {name: %[1]s}, spec: {selector: {app: %[1]s}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: %[1]s}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s}
data:
  greeting: hello
  settings: |
    level: info
    listen: 0.0.0.0:8080
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: %[1]s-extra}, data: {a: b}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: %[1]s-more}, data: {c: d}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: %[1]s}, rules: []}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: %[1]s}
spec: {minAvailable: 0, selector: {matchLabels: {app: %[1]s}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %[1]s}, spec: {podSelector: {matchLabels: {app: %[1]s}}}}
`, name)
}
