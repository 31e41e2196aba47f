package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/process"
)

// AgentOptions of an agent. The zero value polls every second.
type AgentOptions struct {
	// Name is the cluster's in the fleet; the control plane's when empty.
	Name     string
	Interval time.Duration
	// Registry replaces the fleet's.
	Registry *v1alpha1.Registry
	// StatusKey signs status reports; none are sent when it is zero.
	StatusKey Key
	// StateDir is shared with another agent when set.
	StateDir string
	// Webhook is where the agent listens for notifications; nowhere when empty.
	Webhook string
	// Env is added to the agent's environment, as NAME=value.
	Env []string
	// Change changes the configuration before it is written.
	Change func(*v1alpha1.AgentConfig)
}

// WebhookPath is where an agent takes a registry's notifications.
const WebhookPath = "/"

// Agent is `pinnace-agent run` for one cluster.
type Agent struct {
	// Config is agent.yaml; StateDir what survives a restart.
	Config   string
	StateDir string
	// Listen answers /healthz, /readyz and /metrics.
	Listen string

	site *Site
	name string
	env  []string
	proc *process.Process
}

// NewAgent writes an agent's configuration. It is not started.
func (s *Site) NewAgent(fleet *Fleet, cluster *Cluster, opts AgentOptions) (*Agent, error) {
	s.agents++
	if opts.Name == "" {
		opts.Name = cluster.Name
	}
	if opts.Interval == 0 {
		opts.Interval = time.Second
	}
	dir := filepath.Join(s.Dir, "agents", fmt.Sprintf("%s-%d", opts.Name, s.agents))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &Agent{Config: filepath.Join(dir, "agent.yaml"), StateDir: opts.StateDir, site: s, name: opts.Name, env: opts.Env}
	if a.StateDir == "" {
		a.StateDir = filepath.Join(dir, "state")
	}
	var err error
	if a.Listen, err = s.Loopback(); err != nil {
		return nil, err
	}
	config := v1alpha1.AgentConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "AgentConfig"},
		Spec: v1alpha1.AgentSpec{
			Fleet: fleet.Name, Cluster: opts.Name, Interval: metav1.Duration{Duration: opts.Interval},
			Registries: []v1alpha1.Registry{{Prefix: fleet.Prefix, PlainHTTP: true}},
			StateDir:   a.StateDir, TrustPolicy: filepath.Join(dir, "trust.yaml"),
			Kubeconfig: cluster.Kubeconfig, Listen: a.Listen, StatusKey: opts.StatusKey.Private,
		},
	}
	if opts.Registry != nil {
		config.Spec.Registries = []v1alpha1.Registry{*opts.Registry}
	}
	if opts.Webhook != "" {
		config.Spec.Webhook = &v1alpha1.Webhook{Listen: opts.Webhook}
	}
	if opts.Change != nil {
		opts.Change(&config)
	}
	policy := v1alpha1.TrustPolicy{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "TrustPolicy"},
		Spec: v1alpha1.TrustPolicySpec{Rules: []v1alpha1.TrustRule{{
			Match:   "**",
			Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "release", File: fleet.Key.Public}}},
		}}},
	}
	return a, errors.Join(writeYAML(a.Config, config), writeYAML(config.Spec.TrustPolicy, policy))
}

func writeYAML(path string, document any) error {
	data, err := yaml.Marshal(document)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// Name is the cluster's in the fleet.
func (a *Agent) Name() string { return a.name }

// Start starts the agent. It doesn't wait for anything.
func (a *Agent) Start() error {
	var err error
	a.proc, err = a.site.procs.Start(process.Command{
		Name: "pinnace-agent for " + a.name, Program: filepath.Join(a.site.Bin, "pinnace-agent"),
		Args: []string{"run", "--config", a.Config}, Env: append(a.site.environment(), a.env...), Log: a.LogFile(),
	})
	return err
}

// LogFile is where the agent's output goes.
func (a *Agent) LogFile() string { return filepath.Join(filepath.Dir(a.Config), "agent.log") }

// Stop asks the agent to end and waits.
func (a *Agent) Stop() error { return a.proc.Stop() }

// Kill ends the agent as a power cut would.
func (a *Agent) Kill() { a.proc.Kill() }

// PID is the process's id.
func (a *Agent) PID() int { return a.proc.PID() }

// ExitCode waits for an agent that ends by itself.
func (a *Agent) ExitCode(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return a.proc.ExitCode(ctx)
}

// SyncOnce does one pass with pinnace-agent sync --once and returns what it printed.
func (a *Agent) SyncOnce(ctx context.Context) (string, error) {
	return a.site.run(ctx, "pinnace-agent", nil, "sync", "--once", "--config", a.Config)
}

// Command gives a command to the running agent and returns what it printed.
func (a *Agent) Command(ctx context.Context, args ...string) (string, error) {
	return a.site.run(ctx, "pinnace-agent", nil, append(args, "--config", a.Config)...)
}

// Log returns everything that the agent said so far.
func (a *Agent) Log() (string, error) {
	content, err := os.ReadFile(a.LogFile())
	return string(content), err
}

// WaitLog waits until the agent has said all of the texts.
func (a *Agent) WaitLog(ctx context.Context, texts ...string) error {
	return Until(ctx, "the agent's log", func(context.Context) error {
		log, err := a.Log()
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(log, text) {
				return fmt.Errorf("the agent for %s has not said %q; see %s", a.name, text, a.LogFile())
			}
		}
		return nil
	})
}

// WaitHealthy waits until /healthz answers 200.
func (a *Agent) WaitHealthy(ctx context.Context) error {
	return a.proc.Await(ctx, func(ctx context.Context) error {
		_, err := a.Get(ctx, "/healthz")
		return err
	})
}

// Get asks the agent's own endpoint; any status but 200 is an error.
func (a *Agent) Get(ctx context.Context, path string) (body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Listen+path, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, data)
	}
	return string(data), err
}

// maxBody is more than any answer of an agent.
const maxBody = 16 << 20
