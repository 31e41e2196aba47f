package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

// meter notes when each cluster's target became current, and when a report came that says that all of it is ready.
type meter struct {
	mu     sync.Mutex
	wanted map[string]string // target's digest, by cluster; nil before the index is read
	// visible is when the newest target became current, arrived when the report of it did, reported when the newest one did.
	visible, arrived, reported map[string]time.Time
	signed                     map[string]v1alpha1.StatusReport // newest
	signers                    map[string]agent.EnvelopeSigner
}

func newMeter() *meter {
	return &meter{
		visible: map[string]time.Time{}, reported: map[string]time.Time{}, signed: map[string]v1alpha1.StatusReport{},
		signers: map[string]agent.EnvelopeSigner{},
	}
}

// begin forgets the publication before.
func (m *meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted, m.arrived = nil, map[string]time.Time{}
	clear(m.visible)
}

// expect waits for reports of an index's targets.
func (m *meter) expect(index v1alpha1.FleetIndex) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = map[string]string{}
	for _, cluster := range index.Clusters {
		m.wanted[cluster.Name] = cluster.Digest
		m.check(cluster.Name) // a fast one is there already
	}
}

// stored notes what was tagged in the registry.
func (m *meter) stored(repository, tag string, at time.Time) {
	if tag != v1alpha1.TagCurrent {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if cluster, is := clusterOf(repository, v1alpha1.TargetRepository("")); is {
		m.visible[cluster] = at
	}
	if cluster, is := clusterOf(repository, v1alpha1.StatusRepository("")); is {
		m.reported[cluster] = at
		m.check(cluster)
	}
}

// check notes a cluster's arrival; the caller holds the lock.
func (m *meter) check(cluster string) {
	report, wanted, at := m.signed[cluster], m.wanted[cluster], m.reported[cluster]
	if wanted == "" || at.IsZero() || report.Target.Digest != wanted || !m.arrived[cluster].IsZero() ||
		slices.ContainsFunc(report.Bundles, func(b v1alpha1.ReportedBundle) bool { return b.State != v1alpha1.StateReady }) {
		return
	}
	m.arrived[cluster] = at
}

func (m *meter) missing() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.wanted) - len(m.arrived)
}

// times are how long each report took in seconds: since the first target became current, and since its own did.
func (m *meter) times() (sinceFirst, sinceOwn []float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var first time.Time
	for _, at := range m.visible {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for cluster, at := range m.arrived {
		sinceFirst = append(sinceFirst, at.Sub(first).Seconds())
		sinceOwn = append(sinceOwn, at.Sub(m.visible[cluster]).Seconds())
	}
	return sinceFirst, sinceOwn
}

// sign stands between an agent and its key.
func (m *meter) sign(cluster string, signer agent.EnvelopeSigner) agent.EnvelopeSigner {
	m.signers[cluster] = signer
	return &meteredSigner{EnvelopeSigner: signer, meter: m, cluster: cluster}
}

type meteredSigner struct {
	agent.EnvelopeSigner
	meter   *meter
	cluster string
}

func (s *meteredSigner) SignEnvelope(ctx context.Context, payloadType string, payload []byte) ([]byte, error) {
	var report v1alpha1.StatusReport
	if err := json.Unmarshal(payload, &report); err != nil {
		return nil, err
	}
	s.meter.mu.Lock()
	s.meter.signed[s.cluster] = report
	s.meter.mu.Unlock()
	return s.EnvelopeSigner.SignEnvelope(ctx, payloadType, payload)
}

// again returns a cluster's newest report once more, signed anew: another digest, the same words.
func (m *meter) again(ctx context.Context, cluster string) ([]byte, error) {
	m.mu.Lock()
	report, signer := m.signed[cluster], m.signers[cluster]
	report.Agent += "+"
	m.signed[cluster] = report
	m.mu.Unlock()
	payload, err := json.Marshal(report)
	if err != nil {
		return nil, err
	}
	return signer.SignEnvelope(ctx, v1alpha1.MediaTypeStatus, payload)
}
