package agent

import (
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Metrics are what an operator counts; docs/metrics.md lists them, and their names are an interface. Labels are bounded
// by the number of bundles on one cluster.
type Metrics struct {
	registry *prometheus.Registry

	polls        *prometheus.CounterVec
	lastSync     prometheus.Gauge
	phases       *prometheus.HistogramVec
	states       *prometheus.GaugeVec
	objects      *prometheus.GaugeVec
	detected     *prometheus.CounterVec
	corrected    *prometheus.CounterVec
	refusals     *prometheus.CounterVec
	up           prometheus.Gauge
	plan         *prometheus.GaugeVec
	build        *prometheus.GaugeVec
	clock        prometheus.Gauge
	staleness    prometheus.Gauge
	expiry       prometheus.Gauge
	reports      *prometheus.CounterVec
	webhookCalls *prometheus.CounterVec

	mu      sync.Mutex
	offline func() float64
	cache   func() float64
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_agent_poll_total", Help: "Looks at the registry by result: new, unchanged or error.",
		}, []string{"result"}),
		lastSync: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pinnace_agent_last_sync_timestamp_seconds", Help: "When the registry last answered with the target in force or a new one.",
		}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pinnace_agent_sync_duration_seconds", Help: "Time of one phase: resolve, verify, pull, apply of one bundle, or health: from applied to ready.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60, 300},
		}, []string{"phase"}),
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pinnace_agent_bundle_state", Help: "1 for the state that a bundle is in.",
		}, []string{"bundle", "state"}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pinnace_agent_objects", Help: "Objects of a bundle by state: ready or unready.",
		}, []string{"bundle", "state"}),
		detected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_agent_drift_detected_total", Help: "Objects found to differ from what was applied.",
		}, []string{"bundle", "kind"}),
		corrected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_agent_drift_corrected_total", Help: "Repairs of such objects by result: repaired, failed or contested.",
		}, []string{"bundle", "result"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_agent_refused_total", Help: "Targets that were not taken and bundles that were refused, by reason.",
		}, []string{"reason"}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pinnace_agent_registry_up", Help: "1 when the last look at the registry was answered.",
		}),
		plan: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pinnace_agent_plan_info", Help: "The target in force: digest and generation.",
		}, []string{"digest", "revision"}),
		build: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pinnace_agent_build_info", Help: "The agent's version.",
		}, []string{"version", "commit", "goversion"}),
		clock: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pinnace_agent_clock_skew_seconds", Help: "How far in this node's future the newest target was issued; 0 when in its past.",
		}),
		staleness: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pinnace_agent_target_stale", Help: "1 when the target in force has expired.",
		}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pinnace_agent_target_expiry_timestamp_seconds", Help: "When the target in force expires.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_agent_status_reports_total", Help: "Status reports pushed, by result: ok or error.",
		}, []string{"result"}),
		webhookCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinnace_webhook_requests_total", Help: "Notifications received, by sender and result.",
		}, []string{"provider", "result"}),
	}
	m.registry.MustRegister(
		m.polls, m.lastSync, m.phases, m.states, m.objects, m.detected, m.corrected, m.refusals, m.up, m.plan, m.build,
		m.clock, m.staleness, m.expiry, m.reports, m.webhookCalls,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pinnace_agent_offline_seconds", Help: "Time since a registry last answered.",
		}, func() float64 { return m.call(&m.offline) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pinnace_agent_cache_bytes", Help: "Size of the verified content on disk.",
		}, func() float64 { return m.call(&m.cache) }),
	)
	return m
}

// Registry has the agent's metrics, and takes others.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Build sets the agent's version.
func (m *Metrics) Build(version, commit string) {
	m.build.WithLabelValues(version, commit, runtime.Version()).Set(1)
}

// Webhook counts a notification.
func (m *Metrics) Webhook(provider, result string) {
	m.webhookCalls.WithLabelValues(provider, result).Inc()
}

// watch reads offline time and cache size when they are asked for.
func (m *Metrics) watch(offline, cache func() float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.offline, m.cache = offline, cache
}

func (m *Metrics) call(read *func() float64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *read == nil {
		return 0
	}
	return (*read)()
}

func (m *Metrics) observe(phase string, took time.Duration) {
	m.phases.WithLabelValues(phase).Observe(took.Seconds())
}

func (m *Metrics) poll(result string, now time.Time) {
	m.polls.WithLabelValues(result).Inc()
	if result == "error" {
		m.up.Set(0)
		return
	}
	m.up.Set(1)
	m.lastSync.Set(float64(now.Unix()))
}

func (m *Metrics) refused(reason Reason) { m.refusals.WithLabelValues(string(reason)).Inc() }

func (m *Metrics) reported(err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.reports.WithLabelValues(result).Inc()
}

func (m *Metrics) target(digest string, target *v1alpha1.Target) {
	m.plan.Reset()
	m.plan.WithLabelValues(digest, "gen-"+strconv.FormatInt(target.Generation, 10)).Set(1)
	m.expiry.Set(float64(target.ExpiresAt.Unix()))
}

func (m *Metrics) stale(stale bool) { m.staleness.Set(truth(stale)) }

func (m *Metrics) skew(now time.Time, target *v1alpha1.Target) {
	m.clock.Set(max(0, target.IssuedAt.Sub(now).Seconds()))
}

// bundle sets how a bundle stands.
func (m *Metrics) bundle(name string, s standing) {
	for _, state := range states {
		m.states.WithLabelValues(name, string(state)).Set(truth(state == s.state))
	}
	m.objects.WithLabelValues(name, "ready").Set(float64(s.ready))
	m.objects.WithLabelValues(name, "unready").Set(float64(s.objects - s.ready))
}

// forget drops the series of a bundle that is gone.
func (m *Metrics) forget(bundle string) {
	label := prometheus.Labels{"bundle": bundle}
	m.states.DeletePartialMatch(label)
	m.objects.DeletePartialMatch(label)
	m.detected.DeletePartialMatch(label)
	m.corrected.DeletePartialMatch(label)
}

func (m *Metrics) drift(bundle string, ref apply.Ref) {
	m.detected.WithLabelValues(bundle, ref.Kind).Inc()
}

func (m *Metrics) repaired(bundle, result string) {
	m.corrected.WithLabelValues(bundle, result).Inc()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
