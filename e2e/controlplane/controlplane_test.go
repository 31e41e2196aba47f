package controlplane

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Two clusters on one etcd run a Deployment each, don't see each other, survive the loss of an API server, and end
// with the plane.
func TestPlane(t *testing.T) {
	ctx := t.Context()
	plane, err := Start(ctx, Options{Dir: t.TempDir(), Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })

	clusters := make([]*Cluster, 2)
	var wg sync.WaitGroup
	for i := range clusters {
		wg.Go(func() {
			started := time.Now()
			cluster, err := plane.Cluster(ctx, fmt.Sprintf("c%d", i))
			if err != nil {
				t.Error(err)
				return
			}
			t.Logf("%s ready after %s", cluster.Name, time.Since(started))
			clusters[i] = cluster
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}

	first := kubernetes.NewForConfigOrDie(clusters[0].Config())
	started := time.Now()
	runDeployment(ctx, t, first)
	t.Logf("Deployment available after %s", time.Since(started))

	second := kubernetes.NewForConfigOrDie(clusters[1].Config())
	list, err := second.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("the second cluster sees %d Deployments of the first (%v)", len(list.Items), err)
	}
	if other, err := kubernetes.NewForConfig(withHost(clusters[0], clusters[1].URL())); err != nil {
		t.Fatal(err)
	} else if _, err := other.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("one cluster's credentials open the other")
	}

	clusters[0].StopAPIServer()
	if _, err := first.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("API server stopped: got %v, want a refused connection", err)
	}
	if err := clusters[0].StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := first.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{}); err != nil {
		t.Errorf("after a restart: %v", err)
	}

	if _, err := plane.Cluster(ctx, "c0"); err == nil {
		t.Error("a second cluster with the same name was started")
	}
	if err := plane.Close(); err != nil {
		t.Error(err)
	}
	if _, err := first.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("plane closed: got %v, want a refused connection", err)
	}
	if _, err := plane.Cluster(ctx, "late"); err == nil {
		t.Error("a closed plane started a cluster")
	}
}
