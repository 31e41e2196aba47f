package main

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// meter stands between the agents and the registry: it counts, and notes when each agent's report of a target arrives.
type meter struct {
	heads, requests, manifests, reports atomic.Int64

	mu      sync.Mutex
	since   time.Time
	wanted  map[string]string    // target's digest, by cluster
	arrived map[string]time.Time // by cluster
	signed  map[string]v1alpha1.StatusReport
	pushed  map[string]time.Time // when the newest report was, by cluster
	signers map[string]agent.EnvelopeSigner
}

func newMeter() *meter {
	return &meter{pushed: map[string]time.Time{}, signed: map[string]v1alpha1.StatusReport{}, signers: map[string]agent.EnvelopeSigner{}}
}

// expect waits for reports of an index's targets.
func (m *meter) expect(index v1alpha1.FleetIndex, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since, m.wanted, m.arrived = since, map[string]string{}, map[string]time.Time{}
	for _, cluster := range index.Clusters {
		m.wanted[cluster.Name] = cluster.Digest
		m.check(cluster.Name, m.pushed[cluster.Name]) // a fast one is there already
	}
}

// check notes a cluster's arrival; the caller holds the lock.
func (m *meter) check(cluster string, at time.Time) {
	report, wanted := m.signed[cluster], m.wanted[cluster]
	if wanted == "" || report.Target.Digest != wanted || !m.arrived[cluster].IsZero() ||
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

// times are how long each report took, in seconds.
func (m *meter) times() []float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	times := make([]float64, 0, len(m.arrived))
	for _, at := range m.arrived {
		times = append(times, at.Sub(m.since).Seconds())
	}
	return times
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

// resend sends a cluster's newest report again, signed anew: another digest, the same words.
func (m *meter) resend(ctx context.Context, registry oci.Registry, cluster string) error {
	m.mu.Lock()
	report, signer := m.signed[cluster], m.signers[cluster]
	m.mu.Unlock()
	report.Agent += "+"
	m.mu.Lock()
	m.signed[cluster] = report
	m.mu.Unlock()
	payload, err := json.Marshal(report)
	if err != nil {
		return err
	}
	envelope, err := signer.SignEnvelope(ctx, v1alpha1.MediaTypeStatus, payload)
	if err != nil {
		return err
	}
	repo, err := registry.Repository(v1alpha1.StatusRepository(cluster))
	if err != nil {
		return err
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}}}
	before, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return err
	}
	if _, _, err := oci.Push(ctx, repo, artifact, v1alpha1.TagCurrent); err != nil {
		return err
	}
	m.reports.Add(1)
	return repo.Delete(ctx, before) // as an agent does
}

// watch stands between somebody and the registry.
func (m *meter) watch(registry oci.Registry) oci.Registry { return &metered{registry, m} }

type metered struct {
	oci.Registry
	meter *meter
}

func (r *metered) Repository(name string) (oci.Repository, error) {
	repo, err := r.Registry.Repository(name)
	return &meteredRepository{repo, r.meter, name}, err
}

type meteredRepository struct {
	oci.Repository
	meter *meter
	name  string
}

func (r *meteredRepository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	r.meter.heads.Add(1)
	r.meter.requests.Add(1)
	return r.Repository.Resolve(ctx, reference)
}

func (r *meteredRepository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r.meter.requests.Add(1)
	return r.Repository.Fetch(ctx, desc)
}

func (r *meteredRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if desc.MediaType == ocispec.MediaTypeImageManifest || desc.MediaType == ocispec.MediaTypeImageIndex {
		r.meter.manifests.Add(int64(max(1, len(tags))))
	}
	err := r.Repository.Push(ctx, desc, content, tags...)
	if cluster, is := strings.CutPrefix(r.name, v1alpha1.StatusRepository("")); is && err == nil && len(tags) > 0 {
		r.meter.mu.Lock()
		defer r.meter.mu.Unlock()
		r.meter.pushed[cluster] = time.Now()
		r.meter.check(cluster, r.meter.pushed[cluster])
	}
	return err
}

func (r *meteredRepository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	r.meter.manifests.Add(1)
	return r.Repository.Tag(ctx, desc, tag)
}
