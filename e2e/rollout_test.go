package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/simulate"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// simulated is how many clusters there are beside the real ones.
const simulated = 200

// A rollout over three real clusters and 200 simulated ones: the canary, a real one, fails; nobody else moves; it is
// aborted, and the canary is back on what it had. Meanwhile a stepper is killed, and two run at once. Then a change that
// is right: gates that are expired, or replayed, let nobody in, and steppers bring it everywhere.
func TestRollout(t *testing.T) {
	ctx := t.Context()
	fleet := newFleet(t, registry.Addr)
	names := []string{"factory-01", "store-42", "ship-7"}
	clusters := map[string]*harness.Cluster{}
	for _, name := range names {
		clusters[name] = newCluster(t, "rollout-"+name)
		key, err := site.NewKey(ctx, "rollout-"+name)
		ok(t, err)
		ok(t, fleet.AddStatusKey(name, key))
		start(t, newAgent(t, fleet, clusters[name], harness.AgentOptions{Name: name, StatusKey: key, Change: func(config *v1alpha1.AgentConfig) {
			config.Spec.Heartbeat = metav1.Duration{Duration: 5 * time.Second}
		}}))
	}
	agents := simulateClusters(t, fleet)
	ok(t, fleet.Replace("pinnace.yaml", "  validity: 720h",
		"  validity: 720h\n  rollout: {canaries: [factory-01], waves: [{percent: 20}], maxUnavailable: 50%, deadline: 10s, seenWithin: 60s}"))
	commit(t, fleet, "A strategy")
	publish(t, fleet)
	pinnace := func(args ...string) (string, error) {
		return site.Pinnace(ctx, append(args, "--registry", fleet.Prefix, "--plain-http")...)
	}
	_, err := pinnace("wait", "--for", "ready", "--timeout", "3m", "--key", fleet.Key.Public)
	ok(t, err)
	before := runs(agents)

	// No node has that label: the new pod stays pending.
	ok(t, fleet.Replace("bundles/clock/deployment.yaml", "    spec:\n      containers:", "    spec:\n      nodeSelector: {here: nowhere}\n      containers:"))
	commit(t, fleet, "A clock that starts nowhere")
	publish(t, fleet)
	selector := func(cluster string) string {
		var deployment appsv1.Deployment
		get(t, clusters[cluster], &deployment, "default", "clock")
		return deployment.Spec.Template.Spec.NodeSelector["here"]
	}
	step := func() (string, error) { return pinnace("rollout", "step", "--key", fleet.Key.Private) }

	// A stepper that is killed as soon as it wrote something.
	killed, kill := context.WithCancel(ctx)
	var stepper errgroup.Group
	stepper.Go(func() error {
		_, err := site.Pinnace(killed, "rollout", "step", "--every", "1s", "--registry", fleet.Prefix, "--plain-http", "--key", fleet.Key.Private)
		return err
	})
	ok(t, harness.Until(ctx, "the canary has the change", func(context.Context) error {
		if got := selector("factory-01"); got != "nowhere" {
			return fmt.Errorf("its selector is %q", got)
		}
		return nil
	}))
	kill()
	if err := stepper.Wait(); err == nil {
		t.Error("the stepper ended by itself")
	}

	// Two at once: whoever is slower says so, and does no harm.
	var both errgroup.Group
	for range 2 {
		both.Go(func() error {
			_, err := step()
			var exit *harness.ExitError
			if errors.As(err, &exit) && strings.Contains(exit.Stderr, "somebody else moved the gate") {
				return nil
			}
			return err
		})
	}
	ok(t, both.Wait())

	ok(t, harness.Until(ctx, "the rollout is aborted", func(context.Context) error {
		if _, err := step(); err != nil {
			return err
		}
		for _, name := range names[1:] {
			if got := selector(name); got != "" {
				t.Fatalf("%s moved before the canary succeeded", name)
			}
		}
		_, err := pinnace("rollout", "status", "--key", fleet.Key.Public)
		var exit *harness.ExitError
		if !errors.As(err, &exit) || !strings.Contains(exit.Stderr, "Aborted: canary factory-01 failed") {
			return fmt.Errorf("it stands otherwise: %w", err)
		}
		return nil
	}))
	ok(t, harness.Until(ctx, "the canary is back", func(context.Context) error {
		if got := selector("factory-01"); got != "" {
			return fmt.Errorf("its selector is %q", got)
		}
		return nil
	}))
	if after := runs(agents); !maps.Equal(before, after) {
		t.Errorf("simulated clusters moved: they run %v, and ran %v", after, before)
	}
	_, err = pinnace("wait", "--for", "ready", "--timeout", "2m", "--key", fleet.Key.Public)
	ok(t, err)

	// Another change: this one would start. Gates that hold no more let nobody in, real or simulated.
	ok(t, fleet.Replace("bundles/clock/deployment.yaml", "      nodeSelector: {here: nowhere}\n", ""))
	ok(t, fleet.Replace("bundles/clock/deployment.yaml", "replicas: 1", "replicas: 2"))
	commit(t, fleet, "Two clocks")
	publish(t, fleet)
	replicas := func(cluster string) int32 {
		var deployment appsv1.Deployment
		get(t, clusters[cluster], &deployment, "default", "clock")
		return *deployment.Spec.Replicas
	}
	gatesThatHoldNoMore(t, fleet, names, func(when string) {
		for _, name := range names {
			if got := replicas(name); got != 1 {
				t.Errorf("%s: %s has %d replicas", when, name, got)
			}
		}
		if after := runs(agents); !maps.Equal(before, after) {
			t.Errorf("%s: simulated clusters moved: they run %v, and ran %v", when, after, before)
		}
	})
	ok(t, harness.Until(ctx, "the change is everywhere", func(context.Context) error {
		if _, err := step(); err != nil {
			return err
		}
		for _, name := range names {
			if got := replicas(name); got != 2 {
				return fmt.Errorf("%s has %d replicas", name, got)
			}
		}
		_, err := pinnace("rollout", "status", "--key", fleet.Key.Public)
		return err
	}))
}

// gatesThatHoldNoMore puts gates into the registry, signed as they should be, that are expired or older than what agents
// have seen, and one that is closed. still checks that nobody has moved.
func gatesThatHoldNoMore(t *testing.T, fleet *harness.Fleet, real []string, still func(when string)) {
	t.Helper()
	ctx, now := t.Context(), time.Now()
	last, _, err := fleet.Gate(ctx, "fleet")
	ok(t, err)
	gate := func(sequence int64, expires time.Duration, open int) {
		t.Helper()
		_, err := fleet.PushGate(ctx, v1alpha1.RolloutGate{
			Fleet: fleet.Name, Name: "fleet", Plan: last.Plan + 1, Sequence: last.Sequence + sequence, Phase: v1alpha1.RolloutProgressing,
			OpenWave: 9 * open, OpenBucket: v1alpha1.MaxBucket * open, StepSince: metav1.NewTime(now), OpenedAt: metav1.NewTime(now),
			IssuedAt: metav1.NewTime(now.Add(-time.Minute)), ExpiresAt: metav1.NewTime(now.Add(expires)),
		})
		ok(t, err)
	}
	for _, test := range []struct {
		name, says string
		sequence   int64
		expires    time.Duration
		open       int
	}{
		{"expired", "its gate expired", 2, -time.Second, 1},
		{"closed", "waits for its turn", 3, time.Hour, 0},
		{"replayed", fmt.Sprintf("gate %d was accepted already", last.Sequence+3), 1, time.Hour, 1},
	} {
		gate(test.sequence, test.expires, test.open)
		ok(t, harness.Until(ctx, "all say of the gate that it is "+test.name, func(context.Context) error {
			out, err := fleet.Status(ctx, "-o", "json")
			var exit *harness.ExitError
			if err != nil && !errors.As(err, &exit) {
				return err
			}
			if told := strings.Count(out, test.says); told < simulated+len(real) {
				return fmt.Errorf("%q is told %d times", test.says, told)
			}
			return nil
		}))
		still(test.name)
	}
	gate(3, time.Hour, 0)
}

// simulateClusters adds clusters to the fleet whose agents run in this process until the test ends.
func simulateClusters(t *testing.T, fleet *harness.Fleet) []*simulate.Agent {
	t.Helper()
	public, err := os.ReadFile(fleet.Key.Public)
	ok(t, err)
	checked, err := signing.NewKeyVerifier("release", public)
	ok(t, err)
	remote, err := oci.Open(fleet.Prefix, oci.Options{PlainHTTP: true})
	ok(t, err)
	shared := &simulate.Shared{
		Fleet: fleet.Name, Registry: remote, Verifier: agentVerifier{checked}, Pool: simulate.NewPool(), Metrics: agent.NewMetrics(),
		Interval: 5 * time.Second, Heartbeat: 30 * time.Second, Version: "simulated",
	}
	var documents strings.Builder
	agents := make([]*simulate.Agent, simulated)
	for i := range agents {
		signer, err := signing.NewMemorySigner()
		ok(t, err)
		name := fmt.Sprintf("store-%03d", i+100)
		agents[i] = simulate.New(name, signer, shared)
		fmt.Fprintf(&documents, "---\napiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s, labels: {region: us, tier: edge, site: store}}\n"+
			"spec:\n  values: {site: {id: \"%d\", title: Store, uplinkMbit: 25}}\n  statusKey: |\n    %s\n",
			name, i, strings.ReplaceAll(strings.TrimSpace(string(signer.PublicKey())), "\n", "\n    "))
	}
	ok(t, fleet.Write("clusters/simulated.yaml", documents.String()))
	ctx, cancel := context.WithCancel(t.Context())
	var running errgroup.Group
	for _, one := range agents {
		running.Go(func() error {
			if err := one.Run(ctx); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	t.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			t.Error(err)
		}
	})
	return agents
}

// runs counts what simulated clusters run of the clock.
func runs(agents []*simulate.Agent) map[string]int {
	out := map[string]int{}
	for _, one := range agents {
		out[one.Cluster.Runs()["clock"]]++
	}
	return out
}

// agentVerifier puts refusals into the agent's words, as the command does.
type agentVerifier struct{ *signing.Verifier }

func (v agentVerifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	verified, err := v.Verifier.Verify(ctx, repo, name, desc)
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return verified, &agent.Error{Stage: agent.StageVerify, Reason: agent.Reason(refusal.Reason), Err: err}
	}
	return verified, err
}
