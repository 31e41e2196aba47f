package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pinnace deploy asks a real API server what a bundle would change, and changes nothing.
func TestDeployAsksTheCluster(t *testing.T) {
	cluster, fleet := newCluster(t, "rehearsed"), newFleet(t, registry.Addr)
	ok(t, fleet.Write("bundles/try/pinnace.yaml", "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec: {namespace: try, targets: [{}]}\n"))
	ok(t, fleet.Write("bundles/try/objects.yaml", `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: debug}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: login}
data: {password: correct-horse}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
`))
	args := []string{"deploy", "try", "--cluster", "factory-01", "--dry-run", "--fleet", fleet.Dir, "--kubeconfig", cluster.Kubeconfig}

	// Nothing is there, not even the namespace.
	out, err := site.Pinnace(t.Context(), args...)
	wantExit(t, err, 1, "3 added, 0 changed, 0 unchanged")
	wantText(t, out, "v1 ConfigMap try/settings: added", "+  level: debug", "+  clusterIP")
	if strings.Contains(out, "correct-horse") {
		t.Errorf("a secret is shown:\n%s", out)
	}

	ok(t, cluster.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "try"}}))
	ok(t, cluster.Client.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "try"}, Data: map[string]string{"level": "info"},
	}))
	out, err = site.Pinnace(t.Context(), args...)
	wantExit(t, err, 1, "2 added, 1 changed, 0 unchanged")
	wantText(t, out, "v1 ConfigMap try/settings: changed", "-  level: info", "+  level: debug")

	ok(t, fleet.Replace("bundles/try/objects.yaml", "port: 80", "port: 80000"))
	_, err = site.Pinnace(t.Context(), args...)
	wantExit(t, err, 3, `Service "web" is invalid`, "must be between 1 and 65535", "refuses 1 object")

	var left corev1.ConfigMapList
	ok(t, cluster.Client.List(t.Context(), &left))
	for _, config := range left.Items {
		if config.Namespace == "try" && config.Data["level"] == "debug" {
			t.Error("the rehearsal changed the cluster")
		}
	}
}
