package agent

import (
	"context"
	"time"
)

// Known is what the agent remembers of targets, on its disk and in the cluster.
type Known struct {
	Generation int64  `json:"generation"`
	Digest     string `json:"digest"`
	// Latest is the newest signed time ever accepted: a floor for a clock that was set back.
	Latest time.Time `json:"latest"`
	// Trust is the newest version of the trust root that was in force; 0 when there is none.
	Trust int64 `json:"trust,omitempty"`
}

func (k Known) equal(other Known) bool {
	return k.Generation == other.Generation && k.Digest == other.Digest && k.Latest.Equal(other.Latest) && k.Trust == other.Trust
}

// newer returns the memory that allows less: a wiped disk must not permit a rollback, nor a wiped cluster.
func newer(a, b Known) Known {
	if b.Generation > a.Generation || b.Generation == a.Generation && a.Digest == "" {
		a.Generation, a.Digest = b.Generation, b.Digest
	}
	if b.Latest.After(a.Latest) {
		a.Latest = b.Latest
	}
	a.Trust = max(a.Trust, b.Trust)
	return a
}

// recall joins what the disk and the cluster remember, and tells the one that knows less: the other may be lost next.
func (a *Agent) recall(ctx context.Context, remembered Remembered, cluster Known) {
	disk := remembered.Known
	remembered.Known = newer(disk, cluster)
	if cluster.Generation > disk.Generation {
		remembered.Target = nil // the disk was put back from a copy: what was in force then is old
	}
	if !remembered.Known.equal(disk) {
		if err := a.cfg.State.Remember(remembered); err != nil {
			a.log.Warn("the disk doesn't remember the newest target; with the next one it will", "stage", StageState, "error", err)
		}
	}
	if a.cfg.Holder != nil && !remembered.Known.equal(cluster) {
		if err := a.cfg.Holder.Remember(ctx, remembered.Known); err != nil {
			a.log.Warn("the cluster doesn't remember the newest target; before the next one is applied it will", "stage", StageHold, "error", err)
		} else {
			cluster = remembered.Known
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remembered, a.inCluster = remembered, cluster
}

// remember makes an acceptance durable, on disk and in the cluster.
func (a *Agent) remember(ctx context.Context, known Known) error {
	next := a.remembrance()
	next.Known = known
	if err := a.cfg.State.Remember(next); err != nil {
		return err
	}
	a.mu.Lock()
	a.remembered = next
	a.mu.Unlock()
	if a.cfg.Holder == nil {
		return nil
	}
	if err := a.cfg.Holder.Remember(ctx, known); err != nil {
		return err
	}
	a.mu.Lock()
	a.inCluster = known
	a.mu.Unlock()
	return nil
}

// durable says whether disk and cluster remember just that.
func (a *Agent) durable(known Known) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remembered.Known.equal(known) && (a.cfg.Holder == nil || a.inCluster.equal(known))
}

func (a *Agent) known() Known { return a.remembrance().Known }

func (a *Agent) remembrance() Remembered {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remembered
}
