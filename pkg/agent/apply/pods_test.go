package apply

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// The last warning about each pod is read from the API server, and nothing else.
func TestPodWarnings(t *testing.T) {
	namespace := planetest.Fresh("warnings")
	events := planetest.Parse(t, `apiVersion: v1
kind: Namespace
metadata: {name: `+namespace+`}
---
apiVersion: v1
kind: Event
metadata: {name: first, namespace: `+namespace+`}
involvedObject: {apiVersion: v1, kind: Pod, name: web-1, namespace: `+namespace+`}
type: Warning
reason: FailedMount
message: no secret tls
lastTimestamp: "2026-01-02T03:04:05Z"
---
apiVersion: v1
kind: Event
metadata: {name: earlier, namespace: `+namespace+`}
involvedObject: {apiVersion: v1, kind: Pod, name: web-1, namespace: `+namespace+`}
type: Warning
reason: FailedScheduling
lastTimestamp: "2026-01-02T03:04:04Z"
---
apiVersion: v1
kind: Event
metadata: {name: normal, namespace: `+namespace+`}
involvedObject: {apiVersion: v1, kind: Pod, name: web-2, namespace: `+namespace+`}
type: Normal
reason: Pulled
---
apiVersion: v1
kind: Event
metadata: {name: other, namespace: `+namespace+`}
involvedObject: {apiVersion: apps/v1, kind: ReplicaSet, name: web, namespace: `+namespace+`}
type: Warning
reason: FailedCreate
`)
	admin := planetest.Admin(t, cluster)
	for i, object := range events {
		resources := admin.Resource(eventMapping.GroupVersionResource).Namespace(namespace)
		if i == 0 {
			resources = admin.Resource(nss)
		}
		if _, err := resources.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	applier, _ := newApplier(t, Options{})
	client, err := applier.client(Bundle{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := podWarnings(t.Context(), client, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got["web-1"].reason != "FailedMount" || got["web-1"].message != "no secret tls" {
		t.Errorf("warnings: %v", got)
	}
}
