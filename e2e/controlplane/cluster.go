package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pinnace.dev/pinnace/e2e/process"
)

// Cluster is one API server with its controllers, its scheduler and one pretended node.
type Cluster struct {
	Name string
	// Kubeconfig is a file with full rights; its certificates stand inside.
	Kubeconfig string

	plane  *Plane
	dir    string
	port   int
	config *rest.Config

	mu        sync.Mutex
	apiserver *process.Process
	others    []*process.Process
}

// Config returns a fresh copy of the client configuration, with full rights and without client-side throttling.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// URL is the API server's.
func (c *Cluster) URL() string { return fmt.Sprintf("https://127.0.0.1:%d", c.port) }

func (c *Cluster) start(ctx context.Context) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	admin, ca, err := writeCerts(c.dir, c.Name)
	if err != nil {
		return err
	}
	if c.port, err = c.plane.ports.Reserve(); err != nil {
		return err
	}
	if err := c.writeKubeconfig(admin, ca); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllers(); err != nil {
		return err
	}
	return c.AddNode(ctx, "node-0")
}

func (c *Cluster) writeKubeconfig(admin pair, ca []byte) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[c.Name] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthorityData: ca}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.cert, ClientKeyData: admin.key}
	config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: "admin"}
	config.CurrentContext = c.Name
	c.Kubeconfig = filepath.Join(c.dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, c.Kubeconfig); err != nil {
		return err
	}
	restConfig, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return err
	}
	restConfig.QPS = -1
	c.config = restConfig
	return nil
}

// StartAPIServer starts the API server, on the same address with the same data as before, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	proc, err := c.serve(c.port)
	if err != nil {
		return err
	}
	c.apiserver = proc
	transport, err := rest.TransportFor(c.Config())
	if err != nil {
		return err
	}
	return proc.Await(ctx, healthy(&http.Client{Transport: transport}, c.URL()+"/readyz"))
}

// serve starts an API server of this cluster.
func (c *Cluster) serve(port int) (*process.Process, error) {
	return c.plane.start(c.dir, "kube-apiserver",
		"--etcd-servers="+c.plane.etcd, "--etcd-prefix=/"+c.Name,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file="+c.file("server.crt"), "--tls-private-key-file="+c.file("server.key"),
		"--client-ca-file="+c.file("ca.crt"),
		"--service-account-key-file="+c.file("sa.pub"), "--service-account-signing-key-file="+c.file("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=RBAC", "--allow-privileged=true",
		// Nobody reaches it through the kubernetes service.
		"--endpoint-reconciler-type=none", "--profiling=false")
}

// StopAPIServer kills the API server and leaves everything else running: clients see refused connections.
func (c *Cluster) StopAPIServer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apiserver.Kill()
}

// Stop ends the cluster's processes. What it stored stays in etcd until the plane is closed.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, proc := range c.others {
		proc.Kill()
	}
	if c.apiserver != nil {
		c.apiserver.Kill()
	}
}

func (c *Cluster) startControllers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	access := []string{
		"--kubeconfig=" + c.Kubeconfig, "--authentication-kubeconfig=" + c.Kubeconfig,
		"--authorization-kubeconfig=" + c.Kubeconfig, "--leader-elect=false", "--secure-port=0",
		// Their defaults of 20 and 50 requests a second would be what tests and benchmarks wait for.
		"--kube-api-qps=300", "--kube-api-burst=600",
	}
	programs := map[string][]string{
		"kube-controller-manager": append([]string{
			// A claim would otherwise take 15 s to be bound.
			"--pvclaimbinder-sync-period=1s",
			"--service-account-private-key-file=" + c.file("sa.key"), "--root-ca-file=" + c.file("ca.crt"),
			"--cluster-signing-cert-file=" + c.file("ca.crt"), "--cluster-signing-key-file=" + c.file("ca.key"),
		}, access...),
		"kube-scheduler": access,
	}
	// kwok does nothing without stages: they say how nodes and pods become ready.
	stages, err := filepath.Glob(filepath.Join(c.plane.bin, "stages", "*.yaml"))
	if err != nil {
		return err
	}
	kwok := []string{"--kubeconfig=" + c.Kubeconfig, "--manage-all-nodes=true", "--node-lease-duration-seconds=40"}
	for _, stage := range stages {
		kwok = append(kwok, "--config="+stage)
	}
	programs["kwok"] = kwok
	for name, args := range programs {
		proc, err := c.plane.start(c.dir, name, args...)
		if err != nil {
			return err
		}
		c.others = append(c.others, proc)
	}
	return nil
}

// AddNode creates a node with room for 500 pods, and waits until pods can be scheduled on it and service accounts exist.
// A cluster starts with node-0.
func (c *Cluster) AddNode(ctx context.Context, name string) error {
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		return err
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourcePods: resource.MustParse("500"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"},
			Labels:      map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"},
		},
		Status: corev1.NodeStatus{Allocatable: capacity, Capacity: capacity},
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return c.apiserver.Await(ctx, func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !schedulable(node) {
			return fmt.Errorf("%s is not ready", name)
		}
		_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func schedulable(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return len(node.Spec.Taints) == 0
		}
	}
	return false
}

func (c *Cluster) file(name string) string { return filepath.Join(c.dir, name) }
