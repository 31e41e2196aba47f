package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// One fleet on one cluster, from the first publish through changes, drift and removal.
func TestDelivery(t *testing.T) {
	ctx := t.Context()
	cluster := newCluster(t, "factory-01")
	fleet := newFleet(t, registry.Addr)
	key, err := site.NewKey(ctx, "status-of-factory-01")
	ok(t, err)
	ok(t, fleet.AddStatusKey("factory-01", key))
	commit(t, fleet, "A key for status")
	publish(t, fleet)
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{StatusKey: key})
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, harness.ExampleBundles["factory-01"]...))

	t.Run("kustomize", func(t *testing.T) {
		var deployment appsv1.Deployment
		get(t, cluster, &deployment, "shop", "shop")
		if got := *deployment.Spec.Replicas; got != 2 {
			t.Errorf("replicas: got %d, want the overlay's 2", got)
		}
		if got := deployment.Labels[v1alpha1.LabelBundle]; got != "shop" {
			t.Errorf("label %s: got %q, want shop", v1alpha1.LabelBundle, got)
		}
		generated := deployment.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name
		if got := configMap(t, cluster, "shop", generated)["CURRENCY"]; got != "EUR" {
			t.Errorf("CURRENCY: got %q, want the overlay's EUR", got)
		}
	})
	t.Run("helm release", func(t *testing.T) {
		var secrets corev1.SecretList
		ok(t, cluster.Client.List(ctx, &secrets, client.InNamespace("telemetry"), client.MatchingFields{"type": "helm.sh/release.v1"}))
		if len(secrets.Items) != 1 || secrets.Items[0].Name != "sh.helm.release.v1.telemetry.v1" {
			t.Errorf("release secrets: got %d, want sh.helm.release.v1.telemetry.v1 alone", len(secrets.Items))
		}
		data := configMap(t, cluster, "telemetry", "telemetry")
		if data["site"] != "01" || data["region"] != "eu" || data["interval"] != "30s" {
			t.Errorf("values: got %v, want those of factory-01", data)
		}
	})
	t.Run("manifests, variables and custom resources", func(t *testing.T) {
		wantText(t, configMap(t, cluster, "sensors", "collector")["collector.conf"], "site = 01\n", "cluster = factory-01\n", "send_every = 10s")
		beacon := &unstructured.Unstructured{}
		beacon.SetAPIVersion("fleet.example.com/v1")
		beacon.SetKind("Beacon")
		get(t, cluster, beacon, "site", "here")
		if title, _, err := unstructured.NestedString(beacon.Object, "spec", "title"); err != nil || title != "Factory Hamburg" {
			t.Errorf("title: got %q (%v), want Factory Hamburg", title, err)
		}
	})
	t.Run("status", func(t *testing.T) {
		ok(t, harness.Until(ctx, "the status of factory-01", func(ctx context.Context) error {
			out, err := fleet.Status(ctx, "factory-01")
			if err == nil && !strings.Contains(out, "telemetry") {
				err = fmt.Errorf("telemetry is not in:\n%s", out)
			}
			return err
		}))
	})
	t.Run("health and metrics", func(t *testing.T) {
		ok(t, agent.WaitHealthy(ctx))
		for path, text := range map[string]string{"/healthz": "", "/readyz": "", "/metrics": "pinnace_"} {
			body, err := agent.Get(ctx, path)
			ok(t, err)
			wantText(t, body, text)
		}
	})
	t.Run("drift", func(t *testing.T) { testDrift(t, cluster) })
	t.Run("API server away and back", func(t *testing.T) {
		cluster.StopAPIServer()
		ok(t, cluster.StartAPIServer(ctx))
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "sensors", "collector"))
	})
	t.Run("prune", func(t *testing.T) { testPrune(t, cluster, fleet) })
}

func testDrift(t *testing.T, cluster *harness.Cluster) {
	ctx := t.Context()
	ok(t, cluster.WaitRecreated(ctx, &corev1.Service{}, "shop", "shop"))

	// What Helm released is repaired too.
	ok(t, cluster.WaitRecreated(ctx, &corev1.ConfigMap{}, "telemetry", "telemetry"))

	config := &corev1.ConfigMap{}
	get(t, cluster, config, "sensors", "collector")
	config.Data["collector.conf"] = "by hand"
	ok(t, cluster.Client.Update(ctx, config))
	ok(t, harness.Until(ctx, "the ConfigMap to be put back", func(ctx context.Context) error {
		if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil {
			return err
		}
		if config.Data["collector.conf"] == "by hand" {
			return errors.New("it is as somebody left it")
		}
		return nil
	}))

	// The bundle lets anybody change the number of replicas. Another repair, made after it, shows that the agent saw it.
	deployment := &appsv1.Deployment{}
	get(t, cluster, deployment, "shop", "shop")
	five := int32(5)
	deployment.Spec.Replicas = &five
	deployment.Spec.Template.Spec.Containers[0].Image = "somebody.example/else:1"
	ok(t, cluster.Client.Update(ctx, deployment))
	ok(t, harness.Until(ctx, "the image to be put back", func(ctx context.Context) error {
		if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return err
		}
		if image := deployment.Spec.Template.Spec.Containers[0].Image; strings.HasPrefix(image, "somebody") {
			return fmt.Errorf("it is %s", image)
		}
		return nil
	}))
	if got := *deployment.Spec.Replicas; got != five {
		t.Errorf("replicas, which are nobody's business: got %d, want %d", got, five)
	}
}

func testPrune(t *testing.T, cluster *harness.Cluster, fleet *harness.Fleet) {
	ctx := t.Context()
	marker := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: marker}\n"
	ok(t, fleet.Write("bundles/sensors/marker.yaml", marker))
	commit(t, fleet, "A marker")
	publish(t, fleet)
	ok(t, harness.Until(ctx, "the marker", func(ctx context.Context) error {
		_, err := cluster.UID(ctx, &corev1.ConfigMap{}, "sensors", "marker")
		return err
	}))

	ok(t, fleet.Remove("bundles/sensors/marker.yaml"))
	ok(t, fleet.Remove("bundles/telemetry"))
	commit(t, fleet, "No marker and no telemetry")
	publish(t, fleet)
	ok(t, cluster.WaitGone(ctx, &corev1.ConfigMap{}, "sensors", "marker"))
	ok(t, cluster.WaitGone(ctx, &appsv1.Deployment{}, "telemetry", "telemetry"))
	ok(t, cluster.WaitReady(ctx, "clock", "sensors", "shop", "site"))
	get(t, cluster, &appsv1.Deployment{}, "sensors", "collector")
}

func get(t *testing.T, cluster *harness.Cluster, object client.Object, namespace, name string) {
	t.Helper()
	if err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
		t.Fatal(err)
	}
}

func configMap(t *testing.T, cluster *harness.Cluster, namespace, name string) map[string]string {
	t.Helper()
	var config corev1.ConfigMap
	get(t, cluster, &config, namespace, name)
	return config.Data
}
