package agent

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"pinnace.dev/pinnace/pkg/agent/apply"
)

type DriftSource interface {
	Events() <-chan apply.Seen
}

type driftState struct {
	touched sets.Set[string]
}

func (a *Agent) startDrift(context.Context) error { a.drift.touched = sets.New[string](); return nil }
func (a *Agent) driftEvents() <-chan apply.Seen {
	if a.cfg.Drift == nil {
		return nil
	}
	return a.cfg.Drift.Events()
}
func (a *Agent) drifted(apply.Seen)                  {}
func (a *Agent) repair(context.Context, time.Time)   {}
func (a *Agent) nextRepair() time.Time               { return time.Now().Add(idleTick) }
func (a *Agent) watchDrift()                         {}
