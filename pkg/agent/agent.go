package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/sealed"
)

// Defaults of a [Config].
const (
	DefaultInterval  = 5 * time.Minute
	DefaultHeartbeat = 15 * time.Minute
	DefaultParallel  = 8
)

// Config is everything an agent works with. Fields without a remark must be set.
type Config struct {
	Fleet, Cluster string
	// Registries are in order of preference: the first that answers wins.
	Registries []oci.Registry
	State      *State
	// Content is the layout in State.ContentDir.
	Content  oci.Registry
	Verifier Verifier
	// Trust follows the fleet's trust root for the verifier, before anything new is verified; nil where there is none.
	Trust TrustRoot
	// Images checks the container images that bundles name, where the policy has rules for them; nil checks none.
	Images ImageVerifier
	// Deployers bring bundles to the cluster, by method.
	Deployers map[v1alpha1.Method]Deployer
	// ClusterKind reports whether a kind is cluster-scoped; false for one that the cluster doesn't know yet.
	ClusterKind func(schema.GroupVersionKind) bool

	// Holder sees to it that one agent works on the cluster; nil where nobody else can.
	Holder Holder
	// Standby waits for another agent to leave, or to die, where it would be an error otherwise.
	Standby bool
	// Objects shows the bundles in the cluster; nil shows none.
	Objects ObjectWriter
	// Events tells in the cluster what happened; nil tells nobody.
	Events EventWriter
	// Drift says what differs from what was applied; nil finds none.
	Drift DriftSource
	// Local reads the ConfigMaps and Secrets that bundles take variables and values from; nil reads none.
	Local LocalSource
	// Signer signs status reports; none are sent when nil.
	Signer EnvelopeSigner
	// Identities reads the cluster's keys for what was sealed to it; it has none when nil.
	Identities func() (sealed.Identities, error)
	// Limits hold for every bundle, whatever the target says.
	Limits []v1alpha1.Limit
	// Interval between polls; the target's when zero, or DefaultInterval.
	Interval time.Duration
	// Heartbeat is how often an unchanged status is sent again; DefaultHeartbeat when zero.
	Heartbeat time.Duration
	// Parallel bounds bundles worked on at once; DefaultParallel when zero.
	Parallel int
	// Version of the agent, for status reports.
	Version string
	// Kubernetes asks for the cluster's version, for status reports; none when nil.
	Kubernetes func() string
	// Facts asks for the cluster's nodes, for status reports, at most once a heartbeat; none are told when nil.
	Facts   func(ctx context.Context) Facts
	Log     *slog.Logger
	Metrics *Metrics
}

// standbyInterval is how often a standby asks whether the agent that works on the cluster is still alive, which costs
// it and the other one a write each.
const standbyInterval = time.Minute

// Holder sees to it that one agent works on the cluster. [Hold] is the one for real clusters.
type Holder interface {
	// Acquire becomes the holder and returns the newest target that the cluster remembers. An [Error] with
	// ReasonAnotherAgent is final, any other is tried again.
	Acquire(ctx context.Context) (Known, error)
	// Keep returns an error when another agent has taken over, nil when ctx ends.
	Keep(ctx context.Context) error
	// Remember keeps the newest accepted target in the cluster.
	Remember(ctx context.Context, known Known) error
	// Await returns when the holder gave up, or after a time at which it is worth asking it for a sign of life.
	Await(ctx context.Context, longest time.Duration)
	// Release lets the next agent start without waiting.
	Release(ctx context.Context) error
}

// Agent works on one cluster. [Agent.Run] keeps it as its target says, [Agent.Sync] does so once; one of them at a time.
//
// One goroutine, the loop, owns all state and decides; workers pull, deploy, look at health and report, on copies, and
// hand the loop a function with what they found.
type Agent struct {
	cfg     Config
	content *content
	log     *slog.Logger
	metrics *Metrics
	hints   chan struct{}
	results chan func()
	// commands come from people, and run on the loop.
	commands chan func()
	workers  sync.WaitGroup

	mu         sync.Mutex
	remembered Remembered // shared with the pull
	inCluster  Known      // what the Lease remembers

	// Both count from born, so that a clock that is set doesn't matter.
	born    time.Time
	contact atomic.Int64 // when a registry last answered
	turned  atomic.Int64 // when the loop last turned
	ready   atomic.Bool
	standby atomic.Bool

	// Below here only the loop reads and writes.
	units     map[string]*unit
	suspended Suspended
	readers   map[LocalRef][]string // bundles that read it
	version   string                // of Kubernetes
	target    *v1alpha1.Target
	manifest  ocispec.Descriptor
	complete  bool // every byte of the target in force is on the disk
	problem   error
	stale     bool
	pulling   bool
	pulled    bool            // once, with or without success
	hinted    []time.Duration // when to look again after a hint
	pullAt    time.Time
	looked    time.Time // when the last look began
	quiet     time.Time // until then the registry asked to be left alone
	failures  int       // polls in a row
	looking   bool
	lookAt    time.Time
	objects   delivery
	events    []Event // not written yet
	report    delivery
	published v1alpha1.StatusReport
	beat      time.Time // when the published report is sent again
	drift     driftState
	gates     gateState
	sender    sender // only the worker that reports uses it
	facts     Facts
	factsAt   time.Time // when they were asked for
	lastGood  *v1alpha1.ReportedTarget
	// driftNotes are the newest, for reports.
	driftNotes []v1alpha1.DriftEvent
}

// New returns an agent. It touches neither disk nor network.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log.With("cluster", cfg.Cluster), metrics: cfg.Metrics,
		content: &content{dir: cfg.State.ContentDir(), layout: cfg.Content, verifier: cfg.Verifier},
		born:    time.Now(),
		hints:   make(chan struct{}, 1), results: make(chan func()), commands: make(chan func()), units: map[string]*unit{},
	}
	a.metrics.watch(
		func() float64 { return (a.age() - time.Duration(a.contact.Load())).Seconds() },
		func() float64 { return float64(a.content.size()) },
	)
	return a
}

// Hint makes the agent look at the registry now. It never blocks and commands nothing.
func (a *Agent) Hint() {
	select {
	case a.hints <- struct{}{}:
	default: // a look is due already
	}
}

// Ready reports whether the agent has a target in force and has tried every bundle of it.
func (a *Agent) Ready() bool { return a.ready.Load() }

// Standby reports whether another agent works on the cluster, and this one waits for its place.
func (a *Agent) Standby() bool { return a.standby.Load() }

// Alive reports whether the loop still turns: it wakes at least once in idleTick.
func (a *Agent) Alive() bool {
	turned := time.Duration(a.turned.Load())
	return turned == 0 || a.age()-turned < 2*idleTick
}

// age is how long the agent has been there, by a clock that nobody sets.
func (a *Agent) age() time.Duration { return time.Since(a.born) }

// Run keeps the cluster as its target says until ctx ends, which is no error, or until another agent takes over.
func (a *Agent) Run(ctx context.Context) error {
	return a.session(ctx, func() bool { return false })
}

// Result is what a [Agent.Sync] found and did.
type Result struct {
	// Report says how every bundle stands, as it was sent.
	Report v1alpha1.StatusReport
	// Changed is whether a new target came into force.
	Changed bool
	// Problem is why the newest target could not be taken; the one before stays in force.
	Problem error
}

// Sync looks once, brings the cluster to what the target says, waits until every bundle is ready or has failed, and
// reports. The error is for what kept it from working at all; Result.Problem for a target that was not taken.
func (a *Agent) Sync(ctx context.Context) (Result, error) {
	before := Remembered{}
	started := false
	err := a.session(ctx, func() bool {
		if !started {
			started, before = true, a.remembrance()
		}
		return a.done()
	})
	result := Result{Report: a.statusReport(), Problem: a.problem}
	after := a.remembrance()
	result.Changed = after.Target != nil && (before.Target == nil || before.Target.Digest != after.Target.Digest)
	return result, err
}

// session starts, loops until over says so, and leaves nothing behind.
func (a *Agent) session(ctx context.Context, over func() bool) error {
	if err := a.start(ctx); err != nil {
		if ctx.Err() != nil && !isAnotherAgent(err) {
			return context.Cause(ctx)
		}
		return err
	}
	work, cancel := context.WithCancelCause(ctx)
	if a.cfg.Holder != nil {
		a.workers.Go(func() {
			if err := a.cfg.Holder.Keep(work); err != nil {
				cancel(err)
			}
		})
	}
	a.startDrift(work)
	if a.cfg.Local != nil {
		a.workers.Go(func() { a.cfg.Local.Run(work) })
	}
	a.prepareObjects(work)
	err := a.loop(work, over)
	cancel(nil)
	a.stop()
	if a.cfg.Holder != nil && !isAnotherAgent(err) {
		farewell, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		if err := a.cfg.Holder.Release(farewell); err != nil {
			a.log.Debug("the Lease was not given back; the next agent will wait", "error", err)
		}
	}
	if isAnotherAgent(err) || ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// start becomes the cluster's agent and takes up what the disk remembers, verified again and without the registry.
func (a *Agent) start(ctx context.Context) error {
	cluster, err := a.acquire(ctx)
	if err != nil {
		return err
	}
	if a.cfg.Kubernetes != nil {
		a.version = a.cfg.Kubernetes()
	}
	remembered, err := a.cfg.State.Remembered()
	if err != nil {
		return err
	}
	records, err := a.cfg.State.Records()
	if err != nil {
		return err
	}
	suspended, err := a.cfg.State.Suspended()
	if err != nil {
		return err
	}
	if err := errors.Join(a.openGates(), a.openGood()); err != nil {
		return err
	}
	a.recall(ctx, remembered, cluster)
	a.suspended, a.readers = suspended, nil
	a.units = make(map[string]*unit, len(records))
	for name, record := range records {
		one := &unit{name: name, fresh: true, since: a.now()}
		one.record(&record)
		if record.Healthy {
			one.told = string(v1alpha1.StateReady) + " " + string(ReasonReady)
		}
		a.units[name] = one
	}
	a.pullAt, a.objects, a.report = a.now(), delivery{}, delivery{}
	a.target, a.pulled, a.problem = nil, false, nil
	a.contact.Store(int64(a.age()))
	if remembered.Target != nil {
		a.takeUp(ctx, *remembered.Target)
	}
	return nil
}

// takeUp brings the target into force that the disk remembers. Where it or its bundles are damaged or no longer
// trusted, that is reported and fetched again; the rest is enforced.
func (a *Agent) takeUp(ctx context.Context, manifest ocispec.Descriptor) {
	target, _, err := a.content.target(ctx, a.cfg.Cluster, manifest)
	if err == nil {
		inForce := ""
		if a.remembrance().Target != nil {
			inForce = manifest.Digest.String()
		}
		if refusal := accept(target, manifest.Digest.String(), a.known(), identity{a.cfg.Fleet, a.cfg.Cluster}, inForce, a.now()); refusal != nil {
			err = refusal
		} else if refusal := validate(target); refusal != nil {
			err = refusal
		}
	}
	if err != nil {
		a.trouble(problem(StageState, "target "+manifest.Digest.String()+" in the state folder", err))
		return
	}
	a.force(target, manifest)
	for i := range target.Bundles {
		if _, err := a.content.open(ctx, &target.Bundles[i]); err != nil {
			a.complete = false
			a.log.Warn("content on the disk is damaged or not trusted; it is fetched again",
				"stage", StageState, "bundle", target.Bundles[i].Name, "error", err)
		}
	}
	a.log.Info("the last good target is in force", "stage", StageState,
		"generation", target.Generation, "digest", manifest.Digest, "bundles", len(target.Bundles))
}

// force brings a target into force.
func (a *Agent) force(target *v1alpha1.Target, manifest ocispec.Descriptor) {
	a.target, a.manifest, a.complete = target, manifest, true
	if len(target.Rollouts) == 0 && a.gates.taken == "" {
		plan(a.units, target)
	} else {
		a.turnGates(a.now())
	}
	a.metrics.target(manifest.Digest.String(), target)
}

// acquire becomes the holder; an API server that doesn't answer is asked again.
func (a *Agent) acquire(ctx context.Context) (Known, error) {
	if a.cfg.Holder == nil {
		return Known{}, nil
	}
	defer a.standby.Store(false)
	for failures := 1; ; failures++ {
		known, err := a.cfg.Holder.Acquire(ctx)
		if isAnotherAgent(err) && a.cfg.Standby && ctx.Err() == nil {
			if !a.standby.Swap(true) {
				a.log.Info("standing by", "stage", StageHold, "for", err)
			}
			a.cfg.Holder.Await(ctx, jitter(standbyInterval))
			continue
		}
		if err == nil || isAnotherAgent(err) || ctx.Err() != nil {
			return known, err
		}
		wait := pause(failures, time.Second, time.Minute)
		a.log.Warn("the cluster doesn't answer; trying again", "stage", StageHold, "in", wait.Round(time.Millisecond), "error", err)
		select {
		case <-ctx.Done():
			return Known{}, err
		case <-time.After(wait):
		}
	}
}

func (a *Agent) now() time.Time { return time.Now() }

func isAnotherAgent(err error) bool {
	var typed *Error
	return errors.As(err, &typed) && typed.Reason == ReasonAnotherAgent
}
