package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// operated is a bundle of manifests; its last lines are free.
const operated = `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: %s}
spec:
  namespace: %[1]s
  targets: [{clusterName: ship-7}]
%s`

// workload is a Deployment whose pods find a node, or never do.
func workload(name, version string, works bool) string {
	node := "{}"
	if !works {
		node = "{no: where}"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      nodeSelector: %[3]s
      containers: [{name: main, image: "registry.example/%[1]s:%[2]s"}]
`, name, version, node)
}

// A bundle that is rolled back, and one that is so soon.
const (
	rollsBack = "  onFailure: rollback\n"
	soon      = rollsBack + "  health: {timeout: 10s}\n"
)

// What people ask of an agent that runs: why, suspend, windows, rollback without a registry, standbys, events.
func TestOperation(t *testing.T) {
	ctx := t.Context()
	cluster := newCluster(t, "operated")
	own, err := site.NewRegistry(ctx, "operated")
	ok(t, err)
	fleet := newFleet(t, own.Addr)
	write := func(t *testing.T, files map[string]string) {
		t.Helper()
		for path, content := range files {
			ok(t, fleet.Write("bundles/"+path, content))
		}
		commit(t, fleet, "A change")
		publish(t, fleet)
	}
	for _, example := range []string{"clock", "sensors", "shop", "site", "telemetry"} {
		ok(t, fleet.Remove("bundles/"+example))
	}
	const chart = "  helm: {chart: files}\n"
	write(t, map[string]string{
		"plain/pinnace.yaml": fmt.Sprintf(operated, "plain", rollsBack), "plain/web.yaml": workload("web", "1", true),
		"chart/pinnace.yaml":             fmt.Sprintf(operated, "chart", rollsBack+chart),
		"chart/files/Chart.yaml":         "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
		"chart/files/values.yaml":        "{}\n",
		"chart/files/templates/web.yaml": workload("released", "1", true),
		"keyed/pinnace.yaml":             fmt.Sprintf(operated, "keyed", "  variablesFrom: [{secretRef: {name: local, prefix: LOCAL_, optional: true}}]\n"),
		"keyed/config.yaml":              "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: keyed}\ndata: {color: '${LOCAL_COLOR:=none}'}\n",
	})
	options := harness.AgentOptions{Name: "ship-7"}
	agent := newAgent(t, fleet, cluster, options)
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, "chart", "keyed", "plain"))

	t.Run("a Secret that changes", func(t *testing.T) {
		secret := &corev1.Secret{}
		secret.Name, secret.Namespace = "local", "keyed"
		secret.StringData = map[string]string{"COLOR": "green"}
		ok(t, cluster.Client.Create(ctx, secret))
		for _, color := range []string{"green", "blue"} {
			secret.StringData = map[string]string{"COLOR": color}
			ok(t, cluster.Client.Update(ctx, secret))
			ok(t, harness.Until(ctx, "the color", func(context.Context) error {
				if got := configMap(t, cluster, "keyed", "keyed")["color"]; got != color {
					return fmt.Errorf("it is %s, want %s", got, color)
				}
				return nil
			}))
		}
	})

	t.Run("suspended", func(t *testing.T) {
		say(t, agent, "plain suspended", "suspend", "plain")
		waitReason(t, cluster, "plain", "Suspended")
		agent.Kill() // it outlives that
		ok(t, agent.Start())
		waitReason(t, cluster, "plain", "Suspended")
		deployment := &appsv1.Deployment{}
		get(t, cluster, deployment, "plain", "web")
		ok(t, cluster.Client.Delete(ctx, deployment))
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "chart", "released"))
		if _, err := cluster.UID(ctx, deployment, "plain", "web"); err == nil {
			t.Error("what a suspended bundle lost came back")
		}
		say(t, agent, "is Waiting (Suspended)", "why", "plain")
		say(t, agent, "plain resumed", "resume", "plain")
		ok(t, cluster.WaitReady(ctx, "chart", "keyed", "plain"))
	})

	t.Run("outside of the window", func(t *testing.T) {
		never := "  windows: [{cron: '0 0 29 2 *', duration: 1h, timeZone: Europe/Berlin}]\n" // most years
		write(t, map[string]string{
			"plain/pinnace.yaml": fmt.Sprintf(operated, "plain", rollsBack+never), "plain/web.yaml": workload("web", "2", true),
		})
		waitReason(t, cluster, "plain", "WaitingForWindow")
		say(t, agent, "WaitingForWindow: version", "why", "plain")
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "plain", "web"))
		wantImage(t, cluster, "plain", "web", "1")
		write(t, map[string]string{"plain/pinnace.yaml": fmt.Sprintf(operated, "plain", rollsBack)})
		ok(t, cluster.WaitReady(ctx, "chart", "keyed", "plain"))
		wantImage(t, cluster, "plain", "web", "2")
	})

	t.Run("rolled back without a registry", func(t *testing.T) {
		write(t, map[string]string{
			"plain/pinnace.yaml": fmt.Sprintf(operated, "plain", soon), "plain/web.yaml": workload("web", "3", false),
			"chart/pinnace.yaml":             fmt.Sprintf(operated, "chart", soon+chart),
			"chart/files/templates/web.yaml": workload("released", "2", false),
		})
		ok(t, agent.WaitLog(ctx, "generation=4"))
		ok(t, own.Stop())
		for _, bundle := range []string{"plain", "chart"} {
			waitReason(t, cluster, bundle, "RolledBack")
		}
		ok(t, harness.Until(ctx, "the good versions", func(ctx context.Context) error {
			return errors.Join(available(ctx, cluster, "plain", "web", "2"), available(ctx, cluster, "chart", "released", "1"))
		}))
		agent.Kill()
		ok(t, agent.Start())
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "plain", "web"))
		wantImage(t, cluster, "plain", "web", "2")
		say(t, agent, "RolledBack", "why", "plain")
		ok(t, own.Start(ctx))
		write(t, map[string]string{
			"plain/pinnace.yaml": fmt.Sprintf(operated, "plain", rollsBack), "plain/web.yaml": workload("web", "4", true),
			"chart/pinnace.yaml":             fmt.Sprintf(operated, "chart", rollsBack+chart),
			"chart/files/templates/web.yaml": workload("released", "3", true),
		})
		ok(t, cluster.WaitReady(ctx, "chart", "keyed", "plain"))
		wantImage(t, cluster, "chart", "released", "3")
	})

	t.Run("events", func(t *testing.T) {
		ok(t, harness.Until(ctx, "the events", func(ctx context.Context) error {
			var list corev1.EventList
			if err := cluster.Client.List(ctx, &list, client.InNamespace("default")); err != nil {
				return err
			}
			got := map[string]bool{}
			for _, event := range list.Items {
				if event.InvolvedObject.Kind == v1alpha1.KindBundleDeployment && event.InvolvedObject.Name == "plain" {
					got[event.Type+" "+event.Reason] = true
				}
			}
			for _, want := range []string{
				"Normal Applied", "Normal DriftCorrected", "Normal Suspended", "Normal Resumed", "Normal WaitingForWindow", "Warning RolledBack",
			} {
				if !got[want] {
					return fmt.Errorf("%s is not in %v", want, got)
				}
			}
			return nil
		}))
	})

	t.Run("standbys", func(t *testing.T) {
		options.StateDir = agent.StateDir
		options.Change = func(config *v1alpha1.AgentConfig) { config.Spec.Standby = true }
		beside := newAgent(t, fleet, cluster, options) // on the same folder
		start(t, beside)
		ok(t, beside.WaitLog(ctx, "standing by"))
		ok(t, beside.WaitHealthy(ctx))
		options.StateDir = ""
		elsewhere := newAgent(t, fleet, cluster, options) // with its own
		start(t, elsewhere)
		ok(t, elsewhere.WaitLog(ctx, "standing by"))
		agent.Kill()
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "plain", "web"))
		ok(t, beside.Stop())
		ok(t, elsewhere.WaitLog(ctx, "a new target is in force"))
		ok(t, cluster.WaitRecreated(ctx, &appsv1.Deployment{}, "plain", "web"))
		ok(t, elsewhere.Stop())
	})
}

// say runs a command to the running agent, again until it says what is wanted: the agent may be about to.
func say(t *testing.T, agent *harness.Agent, want string, args ...string) {
	t.Helper()
	ok(t, harness.Until(t.Context(), strings.Join(args, " "), func(ctx context.Context) error {
		out, err := agent.Command(ctx, args...)
		if err == nil && !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			err = fmt.Errorf("%q is not in:\n%s", want, out)
		}
		return err
	}))
}

func waitReason(t *testing.T, cluster *harness.Cluster, bundle, reason string) {
	t.Helper()
	ok(t, harness.Until(t.Context(), bundle+" to be "+reason, func(ctx context.Context) error {
		bundles, err := cluster.Bundles(ctx)
		if err != nil {
			return err
		}
		for _, condition := range bundles[bundle].Status.Conditions {
			if condition.Type == v1alpha1.ConditionReady && condition.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("it is %+v", bundles[bundle].Status)
	}))
}

func wantImage(t *testing.T, cluster *harness.Cluster, namespace, name, tag string) {
	t.Helper()
	deployment := &appsv1.Deployment{}
	get(t, cluster, deployment, namespace, name)
	if image := deployment.Spec.Template.Spec.Containers[0].Image; !strings.HasSuffix(image, ":"+tag) {
		t.Errorf("%s/%s runs %s, want tag %s", namespace, name, image, tag)
	}
}

// available is nil once the version runs.
func available(ctx context.Context, cluster *harness.Cluster, namespace, name, tag string) error {
	deployment := &appsv1.Deployment{}
	if err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, deployment); err != nil {
		return err
	}
	image := deployment.Spec.Template.Spec.Containers[0].Image
	if !strings.HasSuffix(image, ":"+tag) || deployment.Status.AvailableReplicas != 1 {
		return fmt.Errorf("%s/%s: %s, %d available", namespace, name, image, deployment.Status.AvailableReplicas)
	}
	return nil
}
