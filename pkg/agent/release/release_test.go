package release

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	helmrelease "helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/agent/drift"
)

func TestInstallUpgradeRemove(t *testing.T) {
	releaser, applier := newReleaser(t)
	release := Release{Bundle: "basic", Namespace: "basic", Chart: shop(t, nil)}
	first := mustDeploy(t, releaser, release)
	want := []string{
		"created apps/v1 Deployment basic/basic-web", "created v1 ConfigMap basic/basic-settings", "created v1 Namespace basic",
	}
	if diff := cmp.Diff(want, actions(first)); diff != "" {
		t.Errorf("install (-want +got):\n%s", diff)
	}
	web, err := client(t).AppsV1().Deployments("basic").Get(t.Context(), "basic-web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if web.Labels[v1alpha1.LabelBundle] != "basic" || web.Labels[v1alpha1.LabelManagedBy] != "Helm" {
		t.Errorf("labels %v", web.Labels)
	}

	release.Previous = first.Inventory
	again := mustDeploy(t, releaser, release)
	if again.Count(apply.Unchanged) != 2 || len(again.Changes) != 2 {
		t.Errorf("again: %v", actions(again))
	}
	if diff := cmp.Diff(first.Inventory, again.Inventory); diff != "" {
		t.Errorf("inventory (-first +again):\n%s", diff)
	}

	release.Values = v1alpha1.Values{"color": "red", "extra": map[string]any{"b": float64(2)}}
	upgraded := mustDeploy(t, releaser, release)
	want = []string{"configured v1 ConfigMap basic/basic-settings", "unchanged apps/v1 Deployment basic/basic-web"}
	if diff := cmp.Diff(want, actions(upgraded)); diff != "" {
		t.Errorf("upgrade (-want +got):\n%s", diff)
	}
	settings, err := client(t).CoreV1().ConfigMaps("basic").Get(t.Context(), "basic-settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"color": "red", "extra": `{"a":1,"b":2}`}, settings.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1 superseded", "2 deployed"}, history(t, releaser, release)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	health, err := applier.Health(t.Context(), release.AsBundle(), upgraded.Inventory)
	if err != nil || health.Total != 3 {
		t.Errorf("health %+v, %v", health, err)
	}

	release.Previous = upgraded.Inventory
	removed, err := releaser.Remove(t.Context(), release)
	if err != nil || len(removed.Inventory) != 0 {
		t.Errorf("remove: %v, %v, %v", actions(removed), removed.Inventory, err)
	}
	if _, err := client(t).CoreV1().Namespaces().Get(t.Context(), "basic", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
}

func TestFailedUpgrade(t *testing.T) {
	releaser, _ := newReleaser(t)
	good := Release{Bundle: "failing", Namespace: "failing", Chart: shop(t, nil)}
	good.Previous = mustDeploy(t, releaser, good).Inventory
	bad := good
	bad.Chart = shop(t, map[string]string{"templates/bad.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 0}]}\n"})
	result, err := releaser.Deploy(t.Context(), bad)
	var typed *apply.Error
	if !errors.As(err, &typed) || typed.Bundle != "failing" || !strings.Contains(err.Error(), "upgrade:") {
		t.Errorf("error %v", err)
	}
	if !result.Inventory.Has(apply.Ref{APIVersion: "v1", Kind: "Service", Namespace: "failing", Name: "bad"}) {
		t.Errorf("inventory lacks what may exist: %v", result.Inventory)
	}
	if diff := cmp.Diff([]string{"1 deployed", "2 failed"}, history(t, releaser, good)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	bad.Helm.Atomic, bad.Helm.Timeout = true, metav1.Duration{Duration: 20 * time.Second}
	if _, err := releaser.Deploy(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("atomic: error %v", err)
	}
	if diff := cmp.Diff([]string{"1 superseded", "2 failed", "3 failed", "4 deployed"}, history(t, releaser, good)); diff != "" {
		t.Errorf("history after the rollback (-want +got):\n%s", diff)
	}
	good.Values = v1alpha1.Values{"color": "green"}
	if result := mustDeploy(t, releaser, good); result.Count(apply.Configured) != 1 {
		t.Errorf("after failures: %v", actions(result))
	}
}

// A release that an agent left pending when it died is taken up at once; another's is not.
func TestPendingIsRecovered(t *testing.T) {
	for name, status := range map[string]helmrelease.Status{
		"install": helmrelease.StatusPendingInstall, "upgrade": helmrelease.StatusPendingUpgrade, "uninstall": helmrelease.StatusUninstalling,
	} {
		t.Run(name, func(t *testing.T) {
			releaser, _ := newReleaser(t)
			release := Release{Bundle: "pending-" + name, Namespace: "pending-" + name, Chart: shop(t, nil)}
			release.Previous = mustDeploy(t, releaser, release).Inventory
			config, err := releaser.config(release)
			if err != nil {
				t.Fatal(err)
			}
			setStatus := func(bundle string) {
				last, err := config.Releases.Last(release.name())
				if err != nil {
					t.Fatal(err)
				}
				last.Info.Status, last.Labels[labelBundle] = status, bundle
				if err := config.Releases.Update(last); err != nil {
					t.Fatal(err)
				}
			}
			if status.IsPending() {
				setStatus("")
				if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "by somebody else") {
					t.Errorf("another's pending release: %v", err)
				}
			}
			setStatus(release.Bundle)
			result := mustDeploy(t, releaser, release)
			if len(result.Inventory) != 3 {
				t.Errorf("inventory %v", result.Inventory)
			}
			revisions := history(t, releaser, release)
			if last := revisions[len(revisions)-1]; !strings.HasSuffix(last, "deployed") {
				t.Errorf("history %v", revisions)
			}
		})
	}
}

func TestPlanFor(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	revision := func(status helmrelease.Status, bundle string, age time.Duration) *helmrelease.Release {
		info := &helmrelease.Info{Status: status}
		info.LastDeployed.Time = now.Add(-age)
		return &helmrelease.Release{Info: info, Labels: map[string]string{labelBundle: bundle}}
	}
	for name, tc := range map[string]struct {
		last *helmrelease.Release
		want plan
	}{
		"none":               {nil, install},
		"deployed":           {revision(helmrelease.StatusDeployed, "a", 0), upgrade},
		"failed":             {revision(helmrelease.StatusFailed, "a", 0), upgrade},
		"uninstalled":        {revision(helmrelease.StatusUninstalled, "a", 0), replace},
		"uninstalling":       {revision(helmrelease.StatusUninstalling, "a", 0), uninstall},
		"ours pending":       {revision(helmrelease.StatusPendingUpgrade, "a", 0), recover},
		"theirs pending":     {revision(helmrelease.StatusPendingUpgrade, "", time.Minute), busy},
		"theirs pending old": {revision(helmrelease.StatusPendingRollback, "", time.Hour), recover},
	} {
		t.Run(name, func(t *testing.T) {
			if got := planFor(tc.last, "a", 5*time.Minute, now); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// A person's release is taken over by an upgrade: its pods keep running.
func TestAdoptsARelease(t *testing.T) {
	releaser, applier := newReleaser(t)
	release := Release{Bundle: "adopted", Name: "theirs", Namespace: "adopted", Chart: shop(t, nil)}
	if _, _, err := applier.Namespace(t.Context(), apply.Bundle{Name: "someone", Namespace: "adopted"}); err != nil {
		t.Fatal(err)
	}
	config, err := releaser.config(release)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := loader.LoadArchive(strings.NewReader(string(release.Chart)))
	if err != nil {
		t.Fatal(err)
	}
	byHand := action.NewInstall(config)
	byHand.ReleaseName, byHand.Namespace, byHand.DisableOpenAPIValidation = "theirs", "adopted", true
	if _, err := byHand.Run(packed, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	before, err := client(t).AppsV1().Deployments("adopted").Get(t.Context(), "theirs-web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	result := mustDeploy(t, releaser, release)
	if result.Inventory.Has(apply.Ref{APIVersion: "v1", Kind: "Namespace", Name: "adopted"}) {
		t.Error("a namespace that was there became the bundle's")
	}
	after, err := client(t).AppsV1().Deployments("adopted").Get(t.Context(), "theirs-web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.UID != after.UID || before.Generation != after.Generation || after.Labels[v1alpha1.LabelBundle] != "adopted" {
		t.Errorf("generation %d became %d, labels %v", before.Generation, after.Generation, after.Labels)
	}
}

func TestValuesFrom(t *testing.T) {
	releaser, applier := newReleaser(t)
	if _, _, err := applier.Namespace(t.Context(), apply.Bundle{Name: "values", Namespace: "values"}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Data: map[string][]byte{"values.yaml": []byte("color: green\nextra: {c: 3}\nreplicas: 2")}}
	if _, err := client(t).CoreV1().Secrets("values").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	release := Release{Bundle: "values", Namespace: "values", Chart: shop(t, nil), Values: v1alpha1.Values{"color": "red"}}
	release.Helm.ValuesFrom = []v1alpha1.ValuesReference{
		{SecretKeyRef: &v1alpha1.KeyReference{Name: "more"}},
		{ConfigMapKeyRef: &v1alpha1.KeyReference{Name: "absent", Optional: true}},
	}
	mustDeploy(t, releaser, release)
	settings, err := client(t).CoreV1().ConfigMaps("values").Get(t.Context(), "values-settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"color": "red", "extra": `{"a":1,"c":3}`}, settings.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	release.Helm.ValuesFrom[1].ConfigMapKeyRef.Optional = false
	if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "v1 ConfigMap values/absent") {
		t.Errorf("error %v", err)
	}
	secret.Data["values.yaml"] = []byte("- swordfish")
	if _, err := client(t).CoreV1().Secrets("values").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := releaser.Deploy(t.Context(), release); err == nil || strings.Contains(err.Error(), "swordfish") {
		t.Errorf("error %v", err)
	}
}

// CRDs of the chart come first, are updated only on request, hooks and tests run, and what is to be kept stays.
func TestDefinitionsHooksAndKeep(t *testing.T) {
	releaser, _ := newReleaser(t)
	crd := func(column string) string {
		return `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ports.example.com}
spec:
  group: example.com
  names: {kind: Port, plural: ports, singular: port}
  scope: Namespaced
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}},
       additionalPrinterColumns: [{name: ` + column + `, type: string, jsonPath: .spec.x}]}
`
	}
	hook := `apiVersion: v1
kind: ConfigMap
metadata: {name: hook, annotations: {helm.sh/hook: pre-install}}
`
	test := `apiVersion: batch/v1
kind: Job
metadata: {name: check, annotations: {helm.sh/hook: test}}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: check, image: "check:1"}]}}}
`
	more := map[string]string{
		"crds/ports.yaml": crd("First"), "templates/hook.yaml": hook, "templates/tests/check.yaml": test,
		"templates/port.yaml": "apiVersion: example.com/v1\nkind: Port\nmetadata: {name: north}\nspec: {depth: 1000000000000}\n",
	}
	release := Release{Bundle: "hooks", Namespace: "hooks", Chart: shop(t, more)}
	release.Options.Prune.Keep = []v1alpha1.KeepRule{{Kind: "ConfigMap"}}
	release.Helm.Test = true
	first := mustDeploy(t, releaser, release)
	if check, err := client(t).BatchV1().Jobs("hooks").Get(t.Context(), "check", metav1.GetOptions{}); err != nil || check.Status.Succeeded != 1 {
		t.Errorf("the test did not run: %v, %v", check.Status, err)
	}
	release.Helm.Test = false
	if !first.Inventory.Has(apply.Ref{APIVersion: "example.com/v1", Kind: "Port", Namespace: "hooks", Name: "north"}) {
		t.Errorf("inventory %v", first.Inventory)
	}
	if _, err := client(t).CoreV1().ConfigMaps("hooks").Get(t.Context(), "hook", metav1.GetOptions{}); err != nil {
		t.Errorf("the hook did not run: %v", err)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	column := func() any {
		live, err := planetest.Admin(t, cluster).Resource(crds).Get(t.Context(), "ports.example.com", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		versions := live.Object["spec"].(map[string]any)["versions"].([]any)
		return versions[0].(map[string]any)["additionalPrinterColumns"].([]any)[0].(map[string]any)["name"]
	}
	more["crds/ports.yaml"] = crd("Second")
	release.Chart, release.Previous = shop(t, more), first.Inventory
	mustDeploy(t, releaser, release)
	if got := column(); got != "First" {
		t.Errorf("the CRD was updated unasked: column %v", got)
	}
	release.Helm.ReplaceCRDs = true
	mustDeploy(t, releaser, release)
	if got := column(); got != "Second" {
		t.Errorf("the CRD was not updated: column %v", got)
	}
	removed, err := releaser.Remove(t.Context(), release)
	if err != nil || removed.Count(apply.Skipped) < 1 {
		t.Errorf("remove: %v, %v", actions(removed), err)
	}
	if _, err := client(t).CoreV1().ConfigMaps("hooks").Get(t.Context(), "hooks-settings", metav1.GetOptions{}); err != nil {
		t.Errorf("what is to be kept is gone: %v", err)
	}
	if _, err := planetest.Admin(t, cluster).Resource(crds).Get(t.Context(), "ports.example.com", metav1.GetOptions{}); err != nil {
		t.Errorf("the CRD is gone: %v", err)
	}
}

// Objects of a release are repaired so that a later upgrade works, and what somebody added stays.
func TestDriftOfARelease(t *testing.T) {
	releaser, applier := newReleaser(t)
	release := Release{Bundle: "drifted", Namespace: "drifted", Chart: shop(t, nil)}
	release.Previous = mustDeploy(t, releaser, release).Inventory
	objects, err := releaser.Objects(t.Context(), release)
	if err != nil || len(objects) != 2 {
		t.Fatalf("objects %v, %v", objects, err)
	}
	bundle := release.AsBundle()
	check := func() map[string]drift.Kind {
		kinds := map[string]drift.Kind{}
		for _, object := range objects {
			verdict, err := drift.Check(t.Context(), applier, bundle, object)
			if err != nil {
				t.Fatal(err)
			}
			kinds[object.GetKind()] = verdict.Kind
		}
		return kinds
	}
	if diff := cmp.Diff(map[string]drift.Kind{"ConfigMap": drift.None, "Deployment": drift.None}, check()); diff != "" {
		t.Errorf("untouched (-want +got):\n%s", diff)
	}
	body := []byte(`{"data":{"color":"black","added":"x"}}`)
	if _, err := client(t).CoreV1().ConfigMaps("drifted").Patch(t.Context(), "drifted-settings", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client(t).AppsV1().Deployments("drifted").Delete(t.Context(), "drifted-web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]drift.Kind{"ConfigMap": drift.Modified, "Deployment": drift.Missing}, check()); diff != "" {
		t.Errorf("drifted (-want +got):\n%s", diff)
	}
	for _, object := range objects {
		if change := applier.Repair(t.Context(), bundle, object); change.Err != nil {
			t.Error(change.Err)
		}
	}
	settings, err := client(t).CoreV1().ConfigMaps("drifted").Get(t.Context(), "drifted-settings", metav1.GetOptions{})
	if err != nil || settings.Data["color"] != "blue" || settings.Data["added"] != "x" {
		t.Errorf("repaired to %v, %v", settings.Data, err)
	}
	web, err := client(t).AppsV1().Deployments("drifted").Get(t.Context(), "drifted-web", metav1.GetOptions{})
	if err != nil || web.Annotations["meta.helm.sh/release-name"] != "drifted" {
		t.Errorf("the Deployment came back as %v, %v", web.Annotations, err)
	}
	// The next version has neither color nor the Deployment, and a new image would be taken.
	release.Chart = shop(t, map[string]string{
		"templates/settings.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: drifted-settings}\ndata: {size: large}\n",
		"templates/deployment.yaml": "",
	})
	mustDeploy(t, releaser, release)
	settings, err = client(t).CoreV1().ConfigMaps("drifted").Get(t.Context(), "drifted-settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"size": "large", "added": "x"}, settings.Data); diff != "" {
		t.Errorf("upgraded after a repair (-want +got):\n%s", diff)
	}
	if _, err := client(t).AppsV1().Deployments("drifted").Get(t.Context(), "drifted-web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Deployment is still there: %v", err)
	}
}

func TestRefusedCharts(t *testing.T) {
	releaser, _ := newReleaser(t)
	for name, tc := range map[string]struct {
		chart []byte
		want  string
	}{
		"garbage":    {[]byte("not an archive"), "open chart"},
		"template":   {shop(t, map[string]string{"templates/bad.yaml": "{{ fail \"no luck\" }}"}), "no luck"},
		"dependency": {shop(t, map[string]string{"Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.0.0\ndependencies: [{name: db, version: 1.x}]\n"}), "helm dependency update"},
	} {
		t.Run(name, func(t *testing.T) {
			release := Release{Bundle: "refused", Namespace: "refused", Chart: tc.chart}
			_, err := releaser.Deploy(t.Context(), release)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if revisions := history(t, releaser, release); len(revisions) != 0 {
				t.Errorf("history %v", revisions)
			}
		})
	}
}

func TestImpersonation(t *testing.T) {
	releaser, applier := newReleaser(t)
	if _, _, err := applier.Namespace(t.Context(), apply.Bundle{Name: "tenant", Namespace: "tenant"}); err != nil {
		t.Fatal(err)
	}
	release := Release{Bundle: "tenant", Namespace: "tenant", Chart: shop(t, nil)}
	release.Options.ServiceAccount = "team"
	if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "system:serviceaccount:tenant:team") {
		t.Errorf("a release without rights: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	releaser, _ := newReleaser(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := Release{Bundle: "cancelled", Namespace: "cancelled", Chart: shop(t, nil)}
	started := make(chan struct{})
	finish := make(chan struct{})
	go func() { <-started; cancel() }()
	_, err := releaser.detached(ctx, release, func() (*helmrelease.Release, error) {
		close(started)
		<-finish
		return nil, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "still runs") {
		t.Errorf("a second operation beside the first: %v", err)
	}
	close(finish)
	releaser.Wait()
	mustDeploy(t, releaser, release)
}
