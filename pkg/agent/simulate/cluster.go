package simulate

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Behaviour says what simulated clusters make of what is applied.
type Behaviour struct {
	// Latency is how long a bundle takes to become ready.
	Latency time.Duration
	// Fail is which share of clusters, 0 to 1, a version fails on, chosen by a hash of both: the first version that a
	// cluster gets never fails.
	Fail float64
	// Broken is a text in a container's image that makes it fail everywhere.
	Broken string
}

// Cluster is a cluster in memory: the deployer of every method.
type Cluster struct {
	Name      string
	Behaviour Behaviour

	mu      sync.Mutex
	bundles map[string]running
}

type running struct {
	digest string
	ready  time.Time
	broken string // why it never becomes ready
}

// NewCluster returns an empty cluster.
func NewCluster(name string, behaviour Behaviour) *Cluster {
	return &Cluster{Name: name, Behaviour: behaviour, bundles: map[string]running{}}
}

// Runs returns the digest of every bundle that runs.
func (c *Cluster) Runs() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]string, len(c.bundles))
	for name, bundle := range c.bundles {
		out[name] = bundle.digest
	}
	return out
}

var _ agent.Deployer = (*Cluster)(nil)

// Deploy applies a bundle to memory.
func (c *Cluster) Deploy(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	inventory := inventoryOf(deployment)
	if err := deployment.Record(inventory); err != nil {
		return apply.Result{Inventory: deployment.Previous}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name, digest := deployment.Bundle.Name, deployment.Bundle.Digest
	before, known := c.bundles[name]
	if !known || before.digest != digest {
		now := running{digest: digest, ready: time.Now().Add(c.Behaviour.Latency)}
		now.broken = c.breaks(deployment, known)
		c.bundles[name] = now
	}
	return apply.Result{Inventory: inventory}, nil
}

// breaks says why a version never becomes ready here; empty when it does.
func (c *Cluster) breaks(deployment agent.Deployment, known bool) string {
	if c.Behaviour.Broken != "" {
		for _, object := range deployment.Objects {
			if text := fmt.Sprint(object.Object); strings.Contains(text, c.Behaviour.Broken) {
				return "cannot pull image " + imageIn(text, c.Behaviour.Broken)
			}
		}
	}
	if known && share(c.Name, deployment.Bundle.Digest) < c.Behaviour.Fail {
		return "container exits with code 1"
	}
	return ""
}

// imageIn is the word of a text that holds another one.
func imageIn(text, holds string) string {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" []{}", r) }) {
		if strings.Contains(word, holds) {
			return strings.TrimPrefix(word, "image:")
		}
	}
	return holds
}

func share(parts ...string) float64 {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(strings.Join(parts, "\x00")))
	return float64(sum.Sum32()%10_000) / 10_000
}

// Remove takes a bundle away.
func (c *Cluster) Remove(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.bundles, deployment.Bundle.Name)
	return apply.Result{}, nil
}

// Health says how a bundle stands.
func (c *Cluster) Health(_ context.Context, deployment agent.Deployment) (apply.Health, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	health := apply.Health{Total: len(deployment.Previous)}
	bundle, found := c.bundles[deployment.Bundle.Name]
	switch {
	case found && bundle.broken == "" && !time.Now().Before(bundle.ready):
		health.Ready = health.Total
		return health, nil
	case found && bundle.broken != "" && !time.Now().Before(bundle.ready):
		health.Failed = true
		health.Problems = []v1alpha1.Problem{{Object: worst(deployment.Previous), Reason: "Failed", Message: bundle.broken}}
		return health, nil
	}
	health.Problems = []v1alpha1.Problem{{Object: worst(deployment.Previous), Reason: "InProgress", Message: "is starting"}}
	return health, nil
}

// Applied returns the bundle as it was applied.
func (c *Cluster) Applied(_ context.Context, deployment agent.Deployment) (apply.Bundle, error) {
	return apply.Bundle{Name: deployment.Bundle.Name, Namespace: deployment.Bundle.Namespace, Objects: deployment.Objects}, nil
}

// inventoryOf lists a bundle's objects; a chart counts as one.
func inventoryOf(deployment agent.Deployment) apply.Inventory {
	var inventory apply.Inventory
	for _, object := range deployment.Objects {
		ref := apply.RefOf(object)
		if ref.Namespace == "" {
			ref.Namespace = deployment.Bundle.Namespace
		}
		inventory = append(inventory, ref)
	}
	if len(inventory) == 0 {
		inventory = append(inventory, apply.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: deployment.Bundle.Namespace, Name: deployment.Bundle.Name})
	}
	return inventory
}

// worst names the object that a problem is shown on: the first workload.
func worst(inventory apply.Inventory) string {
	for _, ref := range inventory {
		if ref.Kind == "Deployment" {
			return ref.String()
		}
	}
	if len(inventory) == 0 {
		return ""
	}
	return inventory[0].String()
}
