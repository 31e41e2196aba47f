package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/rollout"
	"pinnace.dev/pinnace/pkg/target/status"
)

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

// start runs a fleet's agents, without a stepper.
func start(t *testing.T, opts Options) *Demo {
	t.Helper()
	opts.Dir = t.TempDir()
	d, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.RunAgents(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
	})
	if _, err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// quick is a fleet that does everything sooner than people could watch it.
func quick(clusters int) Options {
	opts := Options{Clusters: clusters, Interval: 500 * time.Millisecond, Heartbeat: 2 * time.Second}
	opts.setDefaults()
	opts.Strategy = strings.Replace(strategyOf(clusters, opts), "bake: 3s", "bake: 300ms", 1)
	return opts
}

// options read the fleet once.
func (d *Demo) options(t *testing.T) gates.Options {
	t.Helper()
	index, _, err := publish.ReadIndex(t.Context(), d.Registry, d.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	reader := status.Reader{Registry: d.Registry}
	reports, err := reader.Read(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	return gates.Options{Registry: d.Registry, Verifier: d.Verifier, Signer: d.Signer, Index: index, Reports: reports, Now: time.Now()}
}

func (d *Demo) summary(t *testing.T) status.Summary {
	t.Helper()
	opts := d.options(t)
	return status.Summarise(opts.Index, status.JudgeAll(opts.Index, opts.Reports, status.Options{Now: time.Now(), UnseenAfter: d.UnseenAfter()}))
}

func until(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func (d *Demo) ready(t *testing.T) {
	t.Helper()
	until(t, "all are ready", func() error {
		if summary := d.summary(t); !summary.Ready {
			return errors.New(summary.Verdict)
		}
		return nil
	})
}

// versions are what clusters run of a bundle: how many of each digest.
func (d *Demo) versions(bundle string) map[string]int {
	out := map[string]int{}
	for _, one := range d.Agents {
		out[one.Cluster.Runs()[bundle]]++
	}
	return out
}

// states are how a rollout stands on each cluster, as reported.
func states(opts gates.Options) map[v1alpha1.RolloutState]int {
	out := map[v1alpha1.RolloutState]int{}
	for _, report := range opts.Reports {
		if report.Status == nil {
			continue
		}
		for _, rollout := range report.Status.Rollouts {
			out[rollout.State]++
		}
	}
	return out
}

func (d *Demo) step(t *testing.T) gates.Result {
	t.Helper()
	result, err := gates.Step(t.Context(), "fleet", d.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// The canary fails: nobody else moves, the rollout is aborted, and the canary is back on what it had. A stepper that is
// killed between two steps leaves nothing behind that the next one would need: each step here begins from the registry.
func TestCanaryFails(t *testing.T) {
	t.Parallel()
	d := start(t, quick(24))
	d.ready(t)
	before := d.versions("clock")
	if _, err := d.Do(t.Context(), Command{Break, "clock"}); err != nil {
		t.Fatal(err)
	}
	canary := d.Agents[0]
	until(t, "every agent fetched ahead", func() error {
		opts, fetched := d.options(t), 0
		for _, report := range opts.Reports {
			if report.Status != nil && len(report.Status.Rollouts) == 1 && report.Status.Rollouts[0].Fetched {
				fetched++
			}
		}
		if fetched < len(d.Agents) {
			return fmt.Errorf("%d of %d", fetched, len(d.Agents))
		}
		return nil
	})
	if after := d.versions("clock"); !maps.Equal(before, after) {
		t.Fatalf("before any gate: got %v, want %v", after, before)
	}
	until(t, "the rollout is aborted", func() error {
		result := d.step(t)
		if got := d.versions("clock"); len(got) > 2 || got[canary.Cluster.Runs()["clock"]] > 1 && len(got) == 2 && result.Gate.OpenWave > 0 {
			t.Fatalf("others moved: %v", got)
		}
		if result.Gate.Phase != v1alpha1.RolloutAborted {
			return fmt.Errorf("it is %s: %s", result.Gate.Phase, result.Gate.Message)
		}
		if result.Gate.Reason != rollout.ReasonCanaryFailed {
			t.Errorf("got reason %s", result.Gate.Reason)
		}
		return nil
	})
	until(t, "the canary is back", func() error {
		if got := d.versions("clock"); !maps.Equal(got, before) {
			return fmt.Errorf("got %v, want %v", got, before)
		}
		return nil
	})
	d.ready(t)
	if got := states(d.options(t)); got[v1alpha1.RolloutReverted] != 1 || got[v1alpha1.RolloutWaiting] != len(d.Agents)-1 {
		t.Errorf("got %v", got)
	}
	if _, err := d.Do(t.Context(), Command{Mend, ""}); err != nil {
		t.Fatal(err)
	}
	d.ready(t)
}

// A change reaches everybody, step by step; a cluster that is away holds nobody up.
func TestRolloutCompletes(t *testing.T) {
	t.Parallel()
	d := start(t, quick(12))
	d.ready(t)
	away := d.Agents[len(d.Agents)-1]
	if _, err := d.Do(t.Context(), Command{Offline, away.Name}); err != nil {
		t.Fatal(err)
	}
	before := d.versions("clock")
	if err := replace(d.Fleet, "bundles/clock/deployment.yaml", "replicas: 1", "replicas: 2"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	most, limit := 0, 0
	until(t, "the rollout is completed", func() error {
		result := d.step(t)
		most, limit = max(most, result.Unavailable), result.MaxUnavailable
		if result.Gate.Phase != v1alpha1.RolloutCompleted {
			return fmt.Errorf("it is %s: %s, %+v", result.Gate.Phase, result.Gate.Message, result.All)
		}
		return nil
	})
	if most > limit {
		t.Errorf("%d were unavailable at once, at most %d may", most, limit)
	}
	if after := d.versions("clock"); len(after) != 2 {
		t.Errorf("got %v, before it was %v: all but the one that is away have the new version", after, before)
	}
	if _, err := d.Do(t.Context(), Command{Mend, away.Name}); err != nil {
		t.Fatal(err)
	}
	until(t, "who was away has it too", func() error {
		if after := d.versions("clock"); len(after) != 1 {
			return fmt.Errorf("got %v", after)
		}
		return nil
	})
}

// gateOf writes a gate past all rules, as somebody would who has the registry, and maybe the key.
func (d *Demo) gateOf(t *testing.T, signer *signing.Signer, gate v1alpha1.RolloutGate) ocispec.Descriptor {
	t.Helper()
	gate.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate}
	data, err := json.Marshal(gate)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := d.Registry.Repository(v1alpha1.RolloutRepository("fleet"))
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}},
	})
	if err == nil && signer != nil {
		_, err = signer.Sign(t.Context(), repo, desc)
	}
	if err == nil {
		err = repo.Tag(t.Context(), desc, v1alpha1.TagGate)
	}
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// Gates that are expired, unsigned, forged or replayed start nothing new; what runs is let alone.
func TestGatesThatOpenNothing(t *testing.T) {
	t.Parallel()
	d := start(t, quick(4))
	d.ready(t)
	before := d.versions("clock")
	if err := replace(d.Fleet, "bundles/clock/deployment.yaml", "replicas: 1", "replicas: 2"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger, err := signing.NewMemorySigner()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	open := func(sequence int64, expires time.Duration) v1alpha1.RolloutGate {
		return v1alpha1.RolloutGate{
			Fleet: "demo", Name: "fleet", Plan: 1, Sequence: sequence, Phase: v1alpha1.RolloutProgressing, OpenWave: 9, OpenBucket: v1alpha1.MaxBucket,
			IssuedAt: metav1.NewTime(now.Add(-time.Minute)), ExpiresAt: metav1.NewTime(now.Add(expires)),
		}
	}
	closed := open(8, time.Hour)
	closed.OpenWave, closed.OpenBucket = 0, 0
	for _, test := range []struct {
		name   string
		signer *signing.Signer
		gate   v1alpha1.RolloutGate
		says   string
	}{
		{"unsigned", nil, open(5, time.Hour), "SignatureMissing"},
		{"signed by a stranger", stranger, open(6, time.Hour), "KeyNotTrusted"},
		{"expired", d.Signer, open(7, -time.Second), "expired"},
		{"closed", d.Signer, closed, "waits for its turn"},
		{"replayed: older than the closed one", d.Signer, open(3, time.Hour), "gate 8 was accepted already"},
	} {
		d.gateOf(t, test.signer, test.gate)
		until(t, test.name, func() error {
			told := 0
			for _, report := range d.options(t).Reports {
				for _, rollout := range report.Status.Rollouts {
					if strings.Contains(rollout.Message, test.says) {
						told++
					}
				}
			}
			if told < len(d.Agents) {
				return fmt.Errorf("%d of %d say %q", told, len(d.Agents), test.says)
			}
			return nil
		})
		if after := d.versions("clock"); !maps.Equal(before, after) {
			t.Errorf("%s: clusters moved from %v to %v", test.name, before, after)
		}
	}
	// The stepper goes on from the newest that is right: it writes with a sequence that nobody has seen.
	d.gateOf(t, d.Signer, closed)
	until(t, "the rollout goes on", func() error {
		if result := d.step(t); result.Gate.Phase != v1alpha1.RolloutCompleted {
			return fmt.Errorf("it is %s: %s", result.Gate.Phase, result.Gate.Message)
		}
		return nil
	})
}

func TestTamperAndMend(t *testing.T) {
	t.Parallel()
	d := start(t, quick(3))
	d.ready(t)
	verdict := func(cluster string, want status.Verdict) {
		t.Helper()
		until(t, cluster+" is "+string(want), func() error {
			for _, one := range d.summary(t).Clusters {
				if one.Name == cluster && one.Verdict != want {
					return fmt.Errorf("it is %s: %s", one.Verdict, one.Message)
				}
			}
			return nil
		})
	}
	for _, test := range []struct {
		act  Act
		want status.Verdict
	}{{Tamper, status.Refused}, {Offline, status.Unseen}} {
		if _, err := d.Do(t.Context(), Command{test.act, "ship-01"}); err != nil {
			t.Fatal(err)
		}
		verdict("ship-01", test.want)
		if _, err := d.Do(t.Context(), Command{Mend, ""}); err != nil {
			t.Fatal(err)
		}
		verdict("ship-01", status.Ready)
	}
	if _, err := d.Do(t.Context(), Command{Break, "nothing"}); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("an unknown bundle: %v", err)
	}
	if _, err := d.Do(t.Context(), Command{Offline, "nowhere"}); err == nil {
		t.Error("an unknown cluster is cut off")
	}
}

func TestCommandsOverTheSocket(t *testing.T) {
	t.Parallel()
	d := start(t, Options{})
	path := t.TempDir() + "/demo.sock"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Listen(ctx, path) }()
	until(t, "it listens", func() error {
		_, err := Send(t.Context(), path, Command{Mend, ""})
		return err
	})
	if _, err := Send(t.Context(), path, Command{Act: "explode"}); err == nil {
		t.Error("an unknown act is done")
	}
	if err := d.Listen(t.Context(), path); !errors.Is(err, ErrRunning) {
		t.Errorf("a second demo: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := Send(t.Context(), path, Command{Act: Mend}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody listens: %v", err)
	}
}
