package agent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// trust is a trust root that says what it is told to.
type trust struct {
	version int64
	err     error
	asked   int
	known   int64
	at      time.Time
}

func (t *trust) Refresh(_ context.Context, _ oci.Registry, known int64, now time.Time) (int64, error) {
	t.asked++
	t.known, t.at = known, now
	return t.version, t.err
}

func TestTrustRootIsFollowedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := &trust{version: 3}
	follow := func(config *agent.Config) { config.Trust = root }
	w.publish(target(1, w.bundle("web", "1")))
	w.sync(follow)
	if w.holder.known.Trust != 3 || w.holder.known.Generation != 1 {
		t.Errorf("the cluster remembers %+v, want trust root version 3", w.holder.known)
	}
	if w.sync(follow); root.asked != 1 {
		t.Errorf("asked %d times, want 1: nothing new was verified", root.asked)
	}

	// What is wrong with it keeps everything new away, and what runs running.
	root.err = &agent.Error{Stage: agent.StageTrust, Reason: agent.ReasonTrustRootExpired, Err: errors.New("it expired")}
	w.publish(target(2, w.bundle("web", "2")))
	result := w.sync(follow)
	if got := agent.ReasonOf(result.Problem, ""); got != agent.ReasonTrustRootExpired || result.Changed {
		t.Errorf("problem %v, changed %v; want %s", result.Problem, result.Changed, agent.ReasonTrustRootExpired)
	}
	if got := w.deployer.text("web"); len(got) != 1 || got[0] != "1" {
		t.Errorf("web runs %v, want 1", got)
	}
	if root.known != 3 {
		t.Errorf("asked with version %d known, want 3", root.known)
	}
	if root.err = nil; !w.sync(follow).Changed {
		t.Error("the target was not taken once the trust root was right")
	}
}
