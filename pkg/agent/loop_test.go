package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// run runs an agent in a bubble of its own clock, until the test is over; do is called once it has settled.
func (w *world) run(do func(a *agent.Agent), change ...func(*agent.Config)) {
	w.t.Helper()
	a, closeState := w.agent(change...)
	defer closeState()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.settle()
	do(a)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		w.t.Errorf("Run: %v", err)
	}
}

// settle lets everything happen that is due within a second: readiness and what is gathered before it is told.
func (w *world) settle() {
	time.Sleep(time.Second) // the bubble's clock
	synctest.Wait()
}

func (w *world) heads() int {
	count := 0
	for _, request := range w.registry.taken() {
		if strings.HasPrefix(request, "HEAD targets/") && strings.HasSuffix(request, " current") {
			count++
		}
	}
	return count
}

// trusting leaves cryptography out: the bubble's clock stands still while nothing waits.
func trusting(config *agent.Config) { config.Verifier = verifier{signing.TrustAllUnsafe()} }

func every(interval time.Duration) func(*agent.Config) {
	return func(config *agent.Config) { config.Interval = interval }
}

// bubble runs a test on its own clock, on which keys were made before.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	releaseKey()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func TestIdlePollIsOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			w.registry.taken()
			w.deployer.took()
			writes := w.cluster.written()
			time.Sleep(time.Hour)
			synctest.Wait()
			requests := w.registry.taken()
			if got := len(requests); got < 57 || got > 63 {
				t.Errorf("%d requests in an hour at one poll a minute: %v", got, requests[:min(5, got)])
			}
			for _, request := range requests {
				if request != "HEAD targets/factory-07 current" {
					t.Fatalf("an idle agent asked: %s", request)
				}
			}
			if calls := w.deployer.took(); len(calls) > 0 || w.cluster.written() != writes {
				t.Errorf("an idle agent touched the cluster: %v, %d writes", calls, w.cluster.written()-writes)
			}
		}, trusting, every(time.Minute))
	})
}

func TestHintIsFollowedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		web := w.bundle("web", "1")
		w.publish(target(1, web))
		w.run(func(a *agent.Agent) {
			w.publish(target(2, w.bundle("web", "2")))
			w.registry.taken()
			before := time.Now()
			a.Hint()
			synctest.Wait()
			if diff := cmp.Diff([]string{"2"}, w.deployer.text("web")); diff != "" || time.Since(before) > 0 {
				t.Errorf("after %s (-want +got):\n%s", time.Since(before), diff)
			}
		}, trusting, every(time.Hour))
	})
}

// A registry notifies of each tag that a publish moves, so a hint may come while the answer to the one before is on its
// way.
func TestHintDuringALookIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			w.registry.mu.Lock()
			w.registry.delay = 10 * time.Second
			w.registry.mu.Unlock()
			a.Hint()
			time.Sleep(5 * time.Second)
			w.publish(target(2, w.bundle("web", "2")))
			a.Hint()
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if diff := cmp.Diff([]string{"2"}, w.deployer.text("web")); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
		}, trusting, every(time.Hour))
	})
}

// distribution notifies before it moves the tag.
func TestHintBeforeTheTagMoves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			a.Hint()
			time.Sleep(50 * time.Millisecond)
			w.publish(target(2, w.bundle("web", "2")))
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if diff := cmp.Diff([]string{"2"}, w.deployer.text("web")); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
			w.settle()
			w.registry.taken()
			a.Hint() // of something that we have
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if got := w.heads(); got != 5 {
				t.Errorf("%d looks after a hint without news, want 5", got)
			}
		}, trusting, every(time.Hour))
	})
}

func TestPollsBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			// One at five minutes, then after 5, 10, 20 seconds and so on.
			if got := w.heads(); got < 4 || got > 6 {
				t.Errorf("%d looks in the first minute without a registry", got)
			}
			w.registry.taken()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if got := w.heads(); got < 22 || got > 28 {
				t.Errorf("%d looks in two hours, want no more than one every five minutes", got)
			}
		}, trusting, every(5*time.Minute))
	})
}

type slowDownError struct{ error }

func (slowDownError) RetryAfter() time.Duration { return 30 * time.Minute }

func TestRetryAfterIsObeyed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			w.registry.set(fmt.Errorf("HEAD: %w", slowDownError{errors.New("429")}))
			time.Sleep(2 * time.Minute)
			w.registry.taken()
			a.Hint() // from anybody
			time.Sleep(25 * time.Minute)
			synctest.Wait()
			if got := w.heads(); got != 0 {
				t.Errorf("%d looks within the half hour that the registry asked for", got)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if got := w.heads(); got != 1 {
				t.Errorf("%d looks after it, want 1", got)
			}
		}, trusting, every(time.Minute))
	})
}

func TestFailedBundleIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deployer.fail["web"] = errors.New("quota exceeded")
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			w.deployer.took()
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := len(w.deployer.took()); got < 2 || got > 4 {
				t.Errorf("%d attempts within a minute", got)
			}
			w.deployer.set(func() { delete(w.deployer.fail, "web") })
			time.Sleep(6 * time.Minute)
			synctest.Wait()
			if got := w.cluster.now()[0].Status.State; got != v1alpha1.StateReady {
				t.Errorf("state %s, want Ready", got)
			}
		}, trusting)
	})
}

func TestReadinessTimesOutAndRecovers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.deployer.unready["db"] = true
		db, web := w.bundle("db", "1"), w.bundle("web", "1")
		web.DependsOn = []string{"db"}
		w.publish(target(1, db, web))
		w.run(func(*agent.Agent) {
			shown := func() string {
				states := map[string]v1alpha1.State{}
				for _, one := range w.cluster.now() {
					states[one.Name] = one.Status.State
				}
				return fmt.Sprint(states)
			}
			if got := shown(); got != "map[db:Updating web:Waiting]" {
				t.Errorf("at first: %s", got)
			}
			time.Sleep(agent.DefaultTimeout + 2*time.Second)
			synctest.Wait()
			if got := shown(); got != "map[db:Failed web:Waiting]" {
				t.Errorf("after the timeout: %s", got)
			}
			w.deployer.set(func() { delete(w.deployer.unready, "db") })
			time.Sleep(15 * time.Second)
			synctest.Wait()
			if got := shown(); got != "map[db:Ready web:Ready]" {
				t.Errorf("once it is ready: %s", got)
			}
		}, trusting)
	})
}

// counter is a status key that counts.
type counter struct{ signed atomic.Int64 }

func (c *counter) SignEnvelope(_ context.Context, payloadType string, payload []byte) ([]byte, error) {
	c.signed.Add(1)
	return append([]byte(payloadType+"\n"), payload...), nil
}

func TestReportsOnChangeAndAsHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		status := &counter{}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			if got := status.signed.Load(); got != 1 {
				t.Errorf("%d reports of the first target, want 1", got)
			}
			time.Sleep(14 * time.Minute)
			synctest.Wait()
			if got := status.signed.Load(); got != 1 {
				t.Errorf("%d reports while nothing changed, want 1", got)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := status.signed.Load(); got != 2 {
				t.Errorf("%d reports after the heartbeat, want 2", got)
			}
			w.publish(target(2, w.bundle("web", "2")))
			a.Hint()
			w.settle()
			if got := status.signed.Load(); got != 3 {
				t.Errorf("%d reports after a change, want 3", got)
			}
			other := target(3, w.bundle("web", "3"))
			other.Cluster = "factory-08"
			w.publish(other)
			a.Hint()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got := status.signed.Load(); got != 4 {
				t.Errorf("%d reports after a refusal, want 4", got)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if got := status.signed.Load(); got != 4 {
				t.Errorf("%d reports while the refusal lasts, want 4", got)
			}
		}, trusting, every(time.Minute), func(config *agent.Config) { config.Signer = status })
	})
}

func TestOldContentIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		first := w.bundle("web", "1")
		w.publish(target(1, first))
		w.run(func(a *agent.Agent) {
			for generation := int64(2); generation <= 3; generation++ {
				w.publish(target(generation, w.bundle("web", fmt.Sprint(generation))))
				a.Hint()
				w.settle()
			}
			state, err := oci.OpenLayout(w.dir + "/content")
			if err != nil {
				t.Fatal(err)
			}
			repo, err := state.Repository("bundles/web")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := repo.Resolve(t.Context(), first.Digest); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("the first version is still there: %v", err)
			}
		}, trusting)
	})
}
