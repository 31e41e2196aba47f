package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmrelease "helm.sh/helm/v3/pkg/release"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// What registries do wrong: what runs is kept as it is meanwhile, and the new version comes when the registry is well.
func TestRegistryFaults(t *testing.T) {
	ctx := t.Context()
	const name = "faults"
	counted, err := registry.Count(ctx)
	ok(t, err)
	t.Cleanup(func() { _ = counted.Close() })
	fleet := smallFleet(t, counted.Addr, name, map[string]string{"app": textOf("app", "0"), "other": textOf("other", "0")})
	direct := registry.Addr + "/" + fleet.Path()
	_, err = fleet.PublishTo(ctx, direct)
	ok(t, err)
	cluster := newCluster(t, name)
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Interval: 100 * time.Millisecond})
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, "app", "other"))

	current := registrytest.Match{Kind: registrytest.KindManifest, Reference: v1alpha1.TagCurrent}
	bundle := registrytest.Match{Repository: fleet.Path() + "/bundles/app"}
	blobs := registrytest.Match{Repository: fleet.Path() + "/bundles/app", Kind: registrytest.KindBlob, Method: http.MethodGet}
	for i, tt := range []struct {
		name  string
		fault registrytest.Fault
		says  string // in the agent's log
	}{
		{"unauthorized", registrytest.Fault{Match: current, Status: http.StatusUnauthorized}, "reason=Unauthorized"},
		{"too many requests", registrytest.Fault{Match: current, Status: http.StatusTooManyRequests}, "429"},
		{"server error", registrytest.Fault{Match: current, Status: http.StatusInternalServerError}, "500"},
		{"drops connections", registrytest.Fault{Match: current, Drop: true}, "reason=Unreachable"},
		{"answers garbage", registrytest.Fault{Match: bundle, Body: []byte(`{"schemaVersion": 2, "layers": [{`)}, "stage=fetch"},
		{"cuts in the middle", registrytest.Fault{Match: blobs, Cut: 20, Skip: 1}, "stage=fetch"}, // after the config
		{"serves wrong bytes", registrytest.Fault{Match: blobs, Corrupt: true, Skip: 1}, "reason=DigestMismatch"},
		{"is slow", registrytest.Fault{Match: blobs, Delay: 300 * time.Millisecond}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said, err := agent.Log()
			ok(t, err)
			counted.Inject(tt.fault)
			text := fmt.Sprint(i + 1)
			ok(t, fleet.Write("bundles/app/manifests.yaml", textOf("app", text)))
			commit(t, fleet, tt.name)
			_, err = fleet.PublishTo(t.Context(), direct)
			ok(t, err)
			if tt.says != "" {
				ok(t, harness.Until(t.Context(), "the agent to say "+tt.says, func(context.Context) error {
					log, err := agent.Log()
					if err == nil && !strings.Contains(log[len(said):], tt.says) {
						err = errors.New(log[len(said):])
					}
					return err
				}))
				if i%3 == 0 { // more often would be contested
					ok(t, cluster.WaitRecreated(t.Context(), &corev1.ConfigMap{}, "other", "other"))
				}
				waitText(t, cluster, "app", fmt.Sprint(i))
				counted.Heal()
			}
			waitText(t, cluster, "app", text)
			counted.Heal()
		})
	}
	ok(t, cluster.WaitReady(ctx, "app", "other"))
}

// What API servers do wrong: one bundle that cannot be brought says why, the others go on, and it comes when it can.
func TestAPIServerFaults(t *testing.T) {
	ctx := t.Context()
	const name = "apiserver"
	fleet := smallFleet(t, registry.Addr, name, map[string]string{
		"app": textOf("app", "0"), "other": textOf("other", "0"), "tenant": textOf("tenant", "0"),
	})
	ok(t, fleet.Write("bundles/tenant/pinnace.yaml", bundleIn("tenant")+"  serviceAccount: deployer\n"))
	ok(t, fleet.Write("bundles/release/pinnace.yaml", bundleIn("release")+"  helm: {timeout: 10s}\n"))
	ok(t, fleet.Write("bundles/release/Chart.yaml", "apiVersion: v2\nname: release\nversion: 1.0.0\n"))
	ok(t, fleet.Write("bundles/release/templates/web.yaml", `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1"}]}}
`))
	commit(t, fleet, "A tenant and a chart")
	publish(t, fleet)
	cluster := newCluster(t, name)
	slow, err := cluster.CountWrites(ctx)
	ok(t, err)
	t.Cleanup(func() { _ = slow.Close() })
	ok(t, cluster.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}}))
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Interval: 200 * time.Millisecond, Change: func(config *v1alpha1.AgentConfig) {
		config.Spec.Kubeconfig = slow.Kubeconfig
	}})
	start(t, agent)

	t.Run("denies", func(t *testing.T) {
		waitFailed(t, cluster, "tenant", "system:serviceaccount:tenant:deployer", "forbidden")
		waitText(t, cluster, "app", "0")
		role := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "deployer", Namespace: "tenant"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: "tenant"}},
		}
		ok(t, cluster.Client.Create(t.Context(), role))
		ok(t, cluster.WaitReady(t.Context(), "app", "other", "release", "tenant"))
	})
	t.Run("has a webhook that fails", func(t *testing.T) {
		webhook := refusing("app")
		ok(t, cluster.Client.Create(t.Context(), webhook))
		ok(t, harness.Until(t.Context(), "the webhook to count", func(ctx context.Context) error {
			probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "probe", Namespace: "app"}}
			if err := cluster.Client.Create(ctx, probe, client.DryRunAll); err == nil {
				return errors.New("it doesn't yet")
			}
			return nil
		}))
		ok(t, fleet.Write("bundles/app/manifests.yaml", textOf("app", "1")))
		ok(t, fleet.Write("bundles/other/manifests.yaml", textOf("other", "1")))
		commit(t, fleet, "1")
		publish(t, fleet)
		waitFailed(t, cluster, "app", "refuse.example.com")
		waitText(t, cluster, "other", "1")
		waitText(t, cluster, "app", "0")
		ok(t, cluster.Client.Delete(t.Context(), webhook))
		waitText(t, cluster, "app", "1")
		ok(t, cluster.WaitReady(t.Context(), "app", "other", "release", "tenant"))
	})
	t.Run("is slow", func(t *testing.T) {
		slow.Delay(250 * time.Millisecond)
		ok(t, cluster.WaitRecreated(t.Context(), &corev1.ConfigMap{}, "other", "other"))
		slow.Delay(0)
	})
	t.Run("deletes a namespace", func(t *testing.T) {
		ok(t, cluster.WaitRecreated(t.Context(), &corev1.Namespace{}, "", "other"))
		waitText(t, cluster, "other", "1")
		ok(t, cluster.WaitReady(t.Context(), "app", "other", "release", "tenant"))
	})
	t.Run("restarts", func(t *testing.T) {
		cluster.StopAPIServer()
		ok(t, cluster.StartAPIServer(t.Context()))
		ok(t, cluster.WaitRecreated(t.Context(), &corev1.ConfigMap{}, "app", "app"))
	})
	t.Run("agent killed in the middle of an upgrade", func(t *testing.T) { testKilledUpgrade(t, cluster, fleet, agent) })
}

// testKilledUpgrade kills the agent while Helm waits for a hook that never ends. The next agent takes the release up,
// tries what the disk says until the hook's time is over, and then brings the newer version; what ran keeps running.
func testKilledUpgrade(t *testing.T, cluster *harness.Cluster, fleet *harness.Fleet, agent *harness.Agent) {
	ctx := t.Context()
	web, err := cluster.UID(ctx, &appsv1.Deployment{}, "release", "web")
	ok(t, err)
	const hook = "bundles/release/templates/hook.yaml"
	ok(t, fleet.Write(hook, `apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: pre-upgrade}}
spec:
  template:
    spec: {restartPolicy: Never, nodeSelector: {no: such-node}, containers: [{name: migrate, image: "migrate:1"}]}
`))
	commit(t, fleet, "A hook that never ends")
	publish(t, fleet)
	ok(t, harness.Until(ctx, "the upgrade to be under way", func(context.Context) error {
		if got := releases(t, cluster); got != "1 deployed, 2 pending-upgrade" {
			return fmt.Errorf("releases: %s", got)
		}
		return nil
	}))
	agent.Kill()
	ok(t, fleet.Remove(hook))
	ok(t, fleet.Write("bundles/release/templates/more.yaml", textOf("more", "x")))
	commit(t, fleet, "Without the hook")
	publish(t, fleet)
	ok(t, agent.Start())
	ok(t, harness.Until(ctx, "the release to be taken up", func(context.Context) error {
		got := releases(t, cluster)
		if !strings.HasPrefix(got, "1 superseded, 2 failed, ") || !strings.HasSuffix(got, " deployed") {
			return fmt.Errorf("releases: %s", got)
		}
		return nil
	}))
	ok(t, cluster.WaitReady(ctx, "app", "other", "release", "tenant"))
	if after, err := cluster.UID(ctx, &appsv1.Deployment{}, "release", "web"); err != nil || after != web {
		t.Errorf("the Deployment is another now: %v", err)
	}
}

// releases is what helm ls and helm history show of the release.
func releases(t *testing.T, cluster *harness.Cluster) string {
	t.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	namespace := "release"
	flags.KubeConfig, flags.Namespace = &cluster.Kubeconfig, &namespace
	config := &action.Configuration{}
	ok(t, config.Init(flags, namespace, "secret", func(string, ...any) {}))
	list := action.NewList(config)
	list.SetStateMask()
	list.StateMask = action.ListAll
	listed, err := list.Run()
	ok(t, err)
	if len(listed) != 1 || listed[0].Name != "release" {
		t.Fatalf("helm ls shows %d releases", len(listed))
	}
	history, err := action.NewHistory(config).Run("release")
	ok(t, err)
	revisions := make([]string, len(history))
	for _, revision := range history {
		revisions[revision.Version-1] = fmt.Sprintf("%d %s", revision.Version, statusOf(revision))
	}
	return strings.Join(revisions, ", ")
}

func statusOf(revision *helmrelease.Release) string { return revision.Info.Status.String() }

// refusing is a webhook whose server doesn't answer.
func refusing(namespace string) *admissionv1.ValidatingWebhookConfiguration {
	fail, none, nowhere := admissionv1.Fail, admissionv1.SideEffectClassNone, "https://127.0.0.1:1/"
	return &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "refuse.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: &nowhere},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.OperationAll},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			FailurePolicy:     &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}
}

// waitFailed waits until a bundle is Failed and says all the texts.
func waitFailed(t *testing.T, cluster *harness.Cluster, name string, texts ...string) {
	t.Helper()
	ok(t, harness.Until(t.Context(), name+" to fail", func(ctx context.Context) error {
		bundles, err := cluster.Bundles(ctx)
		if err != nil {
			return err
		}
		bundle := bundles[name]
		condition := meta.FindStatusCondition(bundle.Status.Conditions, v1alpha1.ConditionReady)
		if bundle.Status.State != v1alpha1.StateFailed || condition == nil {
			return fmt.Errorf("it is %q", bundle.Status.State)
		}
		for _, text := range texts {
			if !strings.Contains(condition.Message, text) {
				return fmt.Errorf("it doesn't say %q: %s", text, condition.Message)
			}
		}
		return nil
	}))
}
