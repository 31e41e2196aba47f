package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/simulate"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

// Options of a demo.
type Options struct {
	// Clusters is how many there are; 12 when zero.
	Clusters int
	// Latency is how long a bundle takes to become ready on a cluster, Fail which share of clusters a new version fails on.
	Latency time.Duration
	Fail    float64
	// Dir keeps the fleet repository and the keys; it must be absent or empty.
	Dir string
	// Interval between an agent's polls, and Heartbeat of reports; by the number of clusters when zero.
	Interval, Heartbeat time.Duration
	// Strategy replaces the rollout strategy, as lines of pinnace.yaml's spec; a line break alone means none.
	Strategy string
	// RegistryAddr is a registry that runs already, host:port without TLS; one is started when empty.
	RegistryAddr string
	// Sign is between the agents and their keys; nothing when nil.
	Sign func(cluster string, signer agent.EnvelopeSigner) agent.EnvelopeSigner
	// Spread is over which time agents start; a few seconds when zero.
	Spread time.Duration
	// Log receives what goes on; nothing when nil.
	Log *slog.Logger
	// Version is what agents say they are.
	Version string
}

// MinClusters is one of each kind: the example fleet's groups are not empty.
const MinClusters = 3

const (
	defaultClusters = 12
	// connections are what all agents share: each of a real fleet has its own, and thousands in one process would run
	// out of file descriptors when all of them have something to fetch.
	connections = 128
	// startPerCore agents take their first target at the same time; one that doesn't in startPatience lets others go on.
	startPerCore  = 16
	startPatience = 10 * time.Second
	startTick     = 50 * time.Millisecond
	// manyClusters is from where on agents take their time: one process holds them all. A report costs half a dozen
	// requests.
	manyClusters  = 200
	reportSpacing = 24 * time.Millisecond
)

func (o *Options) setDefaults() {
	if o.Clusters <= 0 {
		o.Clusters = defaultClusters
	}
	o.Clusters = max(o.Clusters, MinClusters)
	if o.Interval <= 0 {
		o.Interval = max(time.Second, time.Duration(o.Clusters)*4*time.Millisecond)
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 3 * time.Second
		if o.Clusters > manyClusters {
			o.Heartbeat = max(time.Minute, time.Duration(o.Clusters)*reportSpacing)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "demo"
	}
}

func (o *Options) bake() time.Duration       { return max(3*time.Second, o.Interval) }
func (o *Options) deadline() time.Duration   { return max(15*time.Second, 3*o.Interval+o.Latency) }
func (o *Options) seenWithin() time.Duration { return max(4*time.Second, 2*o.Heartbeat) }

// UnseenAfter is how long a cluster may be silent.
func (o *Options) UnseenAfter() time.Duration { return 3 * o.Heartbeat }

// Demo is a fleet in one process.
type Demo struct {
	Options
	// Prefix is the fleet's in the registry; Fleet its repository's folder; Key and PublicKey are files.
	Prefix, Fleet, Key, PublicKey string
	Registry                      oci.Registry
	Verifier                      *signing.Verifier
	Signer                        *signing.Signer
	Agents                        []*simulate.Agent

	server *registry.Server
	pool   *simulate.Pool

	byName map[string]*simulate.Agent

	mu    sync.Mutex
	notes []Note
	work  Work // of a publish
	// publishedAt is when the last publish ended, startedAt when agents began to start; allUp that they all did.
	publishedAt, startedAt time.Time
	allUp                  bool
}

// Note is something that happened.
type Note struct {
	At   time.Time
	Text string
}

// New sets a fleet up; nothing is published yet and no agent runs. Close ends it.
func New(opts Options) (demo *Demo, err error) {
	opts.setDefaults()
	d := &Demo{
		Options: opts, Fleet: filepath.Join(opts.Dir, "fleet"), Key: filepath.Join(opts.Dir, "release.key"),
		PublicKey: filepath.Join(opts.Dir, "release.pub"), pool: simulate.NewPool(), byName: map[string]*simulate.Agent{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.makeKeys(); err != nil {
		return nil, err
	}
	if opts.RegistryAddr == "" {
		if d.server, err = registry.Start(registry.Options{}); err != nil {
			return nil, err
		}
		opts.RegistryAddr = d.server.Addr
	}
	d.Prefix = opts.RegistryAddr + "/demo"
	if d.Registry, err = oci.Open(d.Prefix, oci.Options{PlainHTTP: true, Connections: connections}); err != nil {
		return nil, err
	}
	return d, d.makeClusters()
}

// makeKeys makes the release key, with an empty password: it protects nothing.
func (d *Demo) makeKeys() error {
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(d.Key, private, 0o600), os.WriteFile(d.PublicKey, public, 0o600)); err != nil {
		return err
	}
	if d.Signer, err = signing.LoadSigner(private, nil); err != nil {
		return err
	}
	d.Verifier, err = signing.NewKeyVerifier("release", public)
	return err
}

// makeClusters writes the fleet and makes an agent for each of its clusters.
func (d *Demo) makeClusters() error {
	signers := make([]*signing.Signer, d.Clusters)
	keys := make([]string, d.Clusters)
	for i := range signers {
		var err error
		if signers[i], err = signing.NewMemorySigner(); err != nil {
			return err
		}
		keys[i] = string(signers[i].PublicKey())
	}
	strategy := d.Strategy
	if strategy == "" {
		strategy = strategyOf(d.Clusters, d.Options)
	}
	if err := writeFleet(d.Fleet, d.Prefix, strategy, keys); err != nil {
		return err
	}
	shared := &simulate.Shared{
		Fleet: "demo", Registry: d.Registry, Verifier: verifier{d.Verifier}, Pool: d.pool, Metrics: agent.NewMetrics(),
		Behaviour: simulate.Behaviour{Latency: d.Latency, Fail: d.Fail, Broken: brokenImage},
		Interval:  d.Interval, Heartbeat: d.Heartbeat, Version: d.Version,
	}
	for i, name := range ClusterNames(d.Clusters) {
		one := simulate.New(name, d.sign(name, signers[i]), shared)
		d.Agents = append(d.Agents, one)
		d.byName[name] = one
	}
	return nil
}

func (d *Demo) sign(cluster string, signer agent.EnvelopeSigner) agent.EnvelopeSigner {
	if d.Sign == nil {
		return signer
	}
	return d.Sign(cluster, signer)
}

// verifier puts refusals into the agent's words.
type verifier struct{ *signing.Verifier }

func (v verifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	verified, err := v.Verifier.Verify(ctx, repo, name, desc)
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return verified, &agent.Error{Stage: agent.StageVerify, Reason: agent.Reason(refusal.Reason), Err: err}
	}
	return verified, err
}

// Close ends the registry. Agents have ended with Run.
func (d *Demo) Close() error {
	if d.server == nil {
		return nil
	}
	return d.server.Close()
}

// Publish publishes the fleet as it stands in its folder.
func (d *Demo) Publish(ctx context.Context) (publish.Result, error) {
	result, err := publish.Publish(ctx, publish.Options{
		LoadOptions: publish.LoadOptions{Fleet: d.Fleet, CacheDir: filepath.Join(d.Dir, "cache"), OCI: oci.Options{PlainHTTP: true}},
		Registry:    d.Prefix, Signer: d.Signer, Jobs: 4 * runtime.GOMAXPROCS(0), Progress: d.progress,
	})
	d.published(err)
	return result, err
}

// RunAgents runs every agent until ctx ends. They start spread over one interval, as those of a real fleet do, but no
// more than a few at a time take their first target: they share this machine with the registry, and thousands at once
// would keep each other from ever being done.
func (d *Demo) RunAgents(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	spread := d.Spread
	if spread <= 0 {
		spread = min(d.Interval, time.Duration(len(d.Agents))*2*time.Millisecond)
	}
	spread /= time.Duration(len(d.Agents))
	starting := make(chan struct{}, startPerCore*runtime.GOMAXPROCS(0))
	started := time.Now()
	d.starts()
	for i, one := range d.Agents {
		select {
		case <-ctx.Done():
			return group.Wait()
		case <-time.After(time.Until(started.Add(time.Duration(i) * spread))):
		}
		select {
		case <-ctx.Done():
			return group.Wait()
		case starting <- struct{}{}:
		}
		group.Go(func() error {
			up(ctx, one)
			<-starting
			return nil
		})
		group.Go(func() error {
			if err := one.Run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("agent of %s: %w", one.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// up waits until an agent has tried its first target, or long enough.
func up(ctx context.Context, one *simulate.Agent) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(startTick)
	defer tick.Stop()
	for !one.Ready() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// note keeps something for people.
func (d *Demo) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	const kept = 100
	d.notes = append(d.notes, Note{At: time.Now(), Text: fmt.Sprintf(format, args...)})
	if len(d.notes) > kept {
		d.notes = d.notes[1:]
	}
}

// Notes are the newest things that happened, oldest first.
func (d *Demo) Notes() []Note {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Note(nil), d.notes...)
}

// Agent returns the agent of a cluster; nil when there is none.
func (d *Demo) Agent(cluster string) *simulate.Agent { return d.byName[cluster] }
