package hostile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// cluster is a cluster in memory: what runs, and what was done to it. It remembers the newest target as a Lease does.
type cluster struct {
	mu      sync.Mutex
	running map[string]string // text by bundle
	touched []string          // since the last time
	known   agent.Known
}

func newCluster() *cluster { return &cluster{running: map[string]string{}} }

// runs returns what runs, for comparing.
func (c *cluster) runs() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out string
	for _, name := range slices.Sorted(maps.Keys(c.running)) {
		out += name + "=" + c.running[name] + " "
	}
	return out
}

func (c *cluster) Deploy(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	var inventory apply.Inventory
	text := ""
	for _, object := range deployment.Objects {
		ref := apply.RefOf(object)
		ref.Namespace = deployment.Bundle.Namespace
		inventory = append(inventory, ref)
		data, _ := object.Object["data"].(map[string]any)
		text += fmt.Sprint(data["text"])
	}
	if err := deployment.Record(inventory); err != nil {
		return apply.Result{Inventory: deployment.Previous}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touched = append(c.touched, "deploy "+deployment.Bundle.Name+"="+text)
	c.running[deployment.Bundle.Name] = text
	return apply.Result{Inventory: inventory}, nil
}

func (c *cluster) Remove(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touched = append(c.touched, "remove "+deployment.Bundle.Name)
	delete(c.running, deployment.Bundle.Name)
	return apply.Result{}, nil
}

func (c *cluster) Health(_ context.Context, deployment agent.Deployment) (apply.Health, error) {
	return apply.Health{Total: len(deployment.Previous), Ready: len(deployment.Previous)}, nil
}

func (c *cluster) Applied(_ context.Context, deployment agent.Deployment) (apply.Bundle, error) {
	return apply.Bundle{Name: deployment.Bundle.Name, Namespace: deployment.Bundle.Namespace, Objects: deployment.Objects}, nil
}

func (c *cluster) Acquire(context.Context) (agent.Known, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known, nil
}

func (c *cluster) Await(context.Context, time.Duration) {}

func (c *cluster) Keep(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (c *cluster) Remember(_ context.Context, known agent.Known) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = known
	return nil
}

func (c *cluster) Release(context.Context) error { return nil }
