package controlplane

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"pinnace.dev/pinnace/e2e/process"
)

// Replica is a further API server of a cluster, over the same data. The cluster's own programs don't use it, so that its
// metrics count the requests of one client alone.
type Replica struct {
	// Kubeconfig leads to it with full rights.
	Kubeconfig string

	config *rest.Config
	proc   *process.Process
}

// Replica starts a further API server and waits until it is ready.
func (c *Cluster) Replica(ctx context.Context) (*Replica, error) {
	port, err := c.plane.ports.Reserve()
	if err != nil {
		return nil, err
	}
	r := &Replica{Kubeconfig: c.file(fmt.Sprintf("kubeconfig-%d", port)), config: c.Config()}
	r.config.Host = fmt.Sprintf("https://127.0.0.1:%d", port)
	config, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Clusters[c.Name].Server = r.config.Host
	if err := clientcmd.WriteToFile(*config, r.Kubeconfig); err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(r.config)
	if err != nil {
		return nil, err
	}
	if r.proc, err = c.serve(port); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.others = append(c.others, r.proc)
	c.mu.Unlock()
	return r, r.proc.Await(ctx, healthy(&http.Client{Transport: transport}, r.config.Host+"/readyz"))
}

// Config returns a fresh copy of the client configuration, with full rights and without client-side throttling.
func (r *Replica) Config() *rest.Config { return rest.CopyConfig(r.config) }
