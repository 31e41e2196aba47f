package release

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

var deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

// pods returns the pods' identities once the Deployment is available.
func pods(t *testing.T, namespace, deployment string) []types.UID {
	t.Helper()
	planetest.Within(t, 30*time.Second, "the Deployment is available", func() bool {
		web, err := client(t).AppsV1().Deployments(namespace).Get(t.Context(), deployment, metav1.GetOptions{})
		return err == nil && web.Status.ObservedGeneration == web.Generation && web.Status.AvailableReplicas == *web.Spec.Replicas &&
			web.Status.Replicas == *web.Spec.Replicas
	})
	list, err := client(t).CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var uids []types.UID
	for i := range list.Items {
		uids = append(uids, list.Items[i].UID)
	}
	slices.Sort(uids)
	return uids
}

// Whoever made what a release takes over, its pods keep running: a release of Rancher Fleet or of a person, made with
// the chart's own marks of ownership, or objects that no release ever owned, with takeOwnership.
func TestAdoptionKeepsPods(t *testing.T) {
	const theirs = `apiVersion: apps/v1
kind: Deployment
metadata: {name: theirs-web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}`
	for name, tc := range map[string]struct {
		by  func(t *testing.T, releaser *Releaser, release Release)
		own bool // takeOwnership is needed
	}{
		"another's release": {func(t *testing.T, releaser *Releaser, release Release) {
			t.Helper()
			config, err := releaser.config(release)
			if err != nil {
				t.Fatal(err)
			}
			packed, err := loader.LoadArchive(strings.NewReader(string(release.Chart)))
			if err != nil {
				t.Fatal(err)
			}
			install := action.NewInstall(config)
			install.ReleaseName, install.Namespace, install.DisableOpenAPIValidation = release.Name, release.Namespace, true
			install.Labels = map[string]string{"fleet.cattle.io/bundle-id": "theirs"}
			if _, err := install.Run(packed, map[string]any{"replicas": 2}); err != nil {
				t.Fatal(err)
			}
		}, false},
		"nobody's objects": {func(t *testing.T, _ *Releaser, release Release) {
			t.Helper()
			object := planetest.Parse(t, theirs)[0]
			if _, err := planetest.Admin(t, cluster).Resource(deployments).Namespace(release.Namespace).Create(t.Context(), object,
				metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			releaser, applier := newReleaser(t)
			ns := planetest.Fresh("adoption")
			if _, _, err := applier.Namespace(t.Context(), apply.Bundle{Name: "someone", Namespace: ns}); err != nil {
				t.Fatal(err)
			}
			release := Release{Bundle: ns, Name: "theirs", Namespace: ns, Chart: shop(t, nil), Values: v1alpha1.Values{"replicas": 2}}
			tc.by(t, releaser, release)
			before := pods(t, ns, "theirs-web")
			if len(before) != 2 {
				t.Fatalf("%d pods", len(before))
			}
			if tc.own {
				if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "cannot be imported") {
					t.Errorf("without takeOwnership: %v", err)
				}
			}
			release.Helm.TakeOwnership = tc.own
			release.Previous = mustDeploy(t, releaser, release).Inventory
			if diff := cmp.Diff(before, pods(t, ns, "theirs-web")); diff != "" {
				t.Errorf("pods (-before +after):\n%s", diff)
			}
			web, err := client(t).AppsV1().Deployments(ns).Get(t.Context(), "theirs-web", metav1.GetOptions{})
			if err != nil || web.Labels[v1alpha1.LabelBundle] != ns || web.Annotations["meta.helm.sh/release-name"] != "theirs" {
				t.Errorf("labels %v, annotations %v, %v", web.Labels, web.Annotations, err)
			}
			// And it is ours for good: an upgrade and the removal work as ever.
			release.Values = v1alpha1.Values{"replicas": 1}
			release.Previous = mustDeploy(t, releaser, release).Inventory
			if removed, err := releaser.Remove(t.Context(), release); err != nil || len(removed.Inventory) != 0 {
				t.Errorf("remove: %v, %v", removed.Inventory, err)
			}
		})
	}
}

// Old revisions go, and helm ls shows one release.
func TestHistoryLimit(t *testing.T) {
	releaser, _ := newReleaser(t)
	release := Release{Bundle: "limited", Namespace: "limited", Chart: shop(t, nil)}
	release.Helm.MaxHistory = 2
	for i := range 4 {
		release.Values = v1alpha1.Values{"color": fmt.Sprint(i)}
		release.Previous = mustDeploy(t, releaser, release).Inventory
	}
	if diff := cmp.Diff([]string{"3 superseded", "4 deployed"}, history(t, releaser, release)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	config, err := releaser.config(release)
	if err != nil {
		t.Fatal(err)
	}
	list, err := action.NewList(config).Run()
	if err != nil || len(list) != 1 || list[0].Name != "limited" || list[0].Version != 4 {
		t.Errorf("helm ls: %v, %v", list, err)
	}
}

// A hook that never ends costs its timeout, not for ever, and says which; the next version goes over it.
func TestHookTimesOut(t *testing.T) {
	releaser, _ := newReleaser(t)
	release := Release{Bundle: "stuck", Namespace: "stuck", Chart: shop(t, nil)}
	release.Previous = mustDeploy(t, releaser, release).Inventory
	release.Helm.Timeout = metav1.Duration{Duration: 2 * time.Second}
	good := release.Chart
	release.Chart = shop(t, map[string]string{"templates/hook.yaml": `apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: pre-upgrade}}
spec: {template: {spec: {restartPolicy: Never, nodeSelector: {no: such-node}, containers: [{name: migrate, image: "migrate:1"}]}}}
`})
	if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "pre-upgrade") {
		t.Errorf("a hook that never ends: %v", err)
	}
	release.Chart, release.Values = good, v1alpha1.Values{"color": "green"}
	mustDeploy(t, releaser, release)
	if diff := cmp.Diff([]string{"1 superseded", "2 failed", "3 deployed"}, history(t, releaser, release)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// A chart's test that fails is the deploy's failure, and what was installed stays.
func TestChartTestFails(t *testing.T) {
	releaser, _ := newReleaser(t)
	release := Release{Bundle: "tested", Namespace: "tested", Chart: shop(t, map[string]string{"templates/tests/check.yaml": `apiVersion: batch/v1
kind: Job
metadata: {name: check, annotations: {helm.sh/hook: test}}
spec: {template: {spec: {restartPolicy: Never, nodeSelector: {no: such-node}, containers: [{name: check, image: "check:1"}]}}}
`})}
	release.Helm.Test = true
	release.Helm.Timeout = metav1.Duration{Duration: 5 * time.Second}
	if _, err := releaser.Deploy(t.Context(), release); err == nil || !strings.Contains(err.Error(), "test: ") {
		t.Errorf("a chart's test that never ends: %v", err)
	}
	if diff := cmp.Diff([]string{"1 deployed"}, history(t, releaser, release)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}
