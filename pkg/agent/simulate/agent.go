package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// Shared is what all agents of a simulation have in common.
type Shared struct {
	Fleet    string
	Registry oci.Registry
	Verifier agent.Verifier
	Pool     *Pool
	// Metrics are everybody's together.
	Metrics   *agent.Metrics
	Behaviour Behaviour
	// Interval between polls and Heartbeat of reports, as in [agent.Config].
	Interval, Heartbeat time.Duration
	Version             string
	Log                 *slog.Logger
}

// Agent is one simulated cluster with its agent.
type Agent struct {
	Name    string
	Cluster *Cluster

	agent *agent.Agent
	link  *link
	state *agent.State
}

// New returns an agent that does not run yet. signer signs its reports.
func New(name string, signer agent.EnvelopeSigner, shared *Shared) *Agent {
	cluster := NewCluster(name, shared.Behaviour)
	state := agent.NewMemoryState()
	link := &link{Registry: shared.Registry}
	config := agent.Config{
		Fleet: shared.Fleet, Cluster: name, Registries: []oci.Registry{link}, State: state, Content: shared.Pool.Content(),
		Verifier: shared.Verifier,
		Deployers: map[v1alpha1.Method]agent.Deployer{
			v1alpha1.MethodApply: cluster, v1alpha1.MethodRelease: cluster,
		},
		Signer: signer, Interval: shared.Interval, Heartbeat: shared.Heartbeat, Version: shared.Version,
		Kubernetes: func() string { return "v1.36.3" }, Metrics: shared.Metrics, Log: shared.Log,
	}
	return &Agent{Name: name, Cluster: cluster, agent: agent.New(config), link: link, state: state}
}

// Run runs the agent until ctx ends.
func (a *Agent) Run(ctx context.Context) error { return a.agent.Run(ctx) }

// Ready reports whether the agent has tried its first target.
func (a *Agent) Ready() bool { return a.agent.Ready() }

// Hint makes the agent look at the registry now.
func (a *Agent) Hint() { a.agent.Hint() }

// SetOffline cuts the agent's link to the registry, or mends it.
func (a *Agent) SetOffline(offline bool) {
	a.link.cut.Store(offline)
	if !offline {
		a.agent.Hint()
	}
}

// Offline reports whether the link is cut.
func (a *Agent) Offline() bool { return a.link.cut.Load() }

// link is a registry that can be cut off. What is under way comes to its end; nothing more is begun.
type link struct {
	oci.Registry
	cut atomic.Bool
}

var errCut = errors.New("the link is cut")

func (l *link) Repository(name string) (oci.Repository, error) {
	if l.cut.Load() {
		return nil, fmt.Errorf("%s/%s: %w: %w", l.Registry, name, oci.ErrUnreachable, errCut)
	}
	return l.Registry.Repository(name)
}
