package agent_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pinnace.dev/pinnace/pkg/agent"
)

func TestStandbyTakesTheDeadAgentsPlace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.publish(target(1, w.bundle("web", "1")))
		w.holder.err = &agent.Error{Stage: agent.StageHold, Reason: agent.ReasonAnotherAgent, Err: errors.New("it works")}
		w.run(func(a *agent.Agent) {
			time.Sleep(5 * time.Minute)
			if calls := w.deployer.took(); len(calls) > 0 || !a.Standby() || !a.Alive() || len(w.registry.taken()) > 0 {
				t.Errorf("a standby did %v; standing by %v", calls, a.Standby())
			}
			w.holder.mu.Lock()
			if w.holder.awaited > 6 {
				t.Errorf("it asked %d times in five minutes", w.holder.awaited)
			}
			w.holder.err = nil
			w.holder.mu.Unlock()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			w.expect("web", "Ready Ready", "1")
			if a.Standby() {
				t.Error("it still stands by")
			}
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Standby = true })
	})
}

func TestStandbyOnTheSameFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := agent.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	taken := make(chan error, 1)
	go func() {
		state, err := agent.AwaitState(t.Context(), dir, func(holder error) { waits <- holder })
		if err == nil {
			err = state.Close()
		}
		taken <- err
	}()
	if err := <-waits; agent.ReasonOf(err, "") != agent.ReasonStateLocked {
		t.Errorf("it waits for %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Errorf("AwaitState: %v", err)
	}
	second, err := agent.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := agent.AwaitState(ctx, dir, func(error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
