package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// full returns metrics in which every family has a series.
func full(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	m := NewMetrics()
	m.Build("v1", "abc")
	m.Webhook("harbor", "hint")
	m.poll("new", noon)
	m.observe("apply", time.Second)
	m.refused(ReasonRollback)
	m.reported(nil)
	m.target("sha256:aa", &v1alpha1.Target{Generation: 1})
	m.bundle("web", standing{state: v1alpha1.StateReady, objects: 3, ready: 2})
	m.drift("web", apply.Ref{Kind: "Deployment"})
	m.repaired("web", "repaired")
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func TestMetricsLint(t *testing.T) {
	t.Parallel()
	problems, err := promlint.NewWithMetricFamilies(full(t)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		// A count of looks is named so in the conventions, beside which the linter has no complaint.
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := 0
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `pinnace_") {
			documented++
		}
	}
	families := full(t)
	if documented != len(families) {
		t.Errorf("docs/metrics.md has %d metrics, the agent %d", documented, len(families))
	}
	for _, family := range families {
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		row := ""
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, "| `"+family.GetName()+"` |") {
				row = line
			}
		}
		if row == "" {
			t.Errorf("docs/metrics.md has no row for %s", family.GetName())
		}
		for _, label := range labels {
			if !strings.Contains(row, "`"+label+"`") {
				t.Errorf("docs/metrics.md: %s: label %q is missing", family.GetName(), label)
			}
		}
	}
}

func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("reason.go")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(source)) {
		_, value, found := strings.Cut(line, "Reason = \"")
		if !found {
			continue
		}
		count++
		if name := strings.TrimSuffix(strings.TrimSpace(value), `"`); !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/reasons.md doesn't explain %s", name)
		}
	}
	if count == 0 {
		t.Error("no reason was found in reason.go")
	}
}

func TestForgottenBundleLeavesNoSeries(t *testing.T) {
	t.Parallel()
	m := NewMetrics()
	m.bundle("web", standing{state: v1alpha1.StateReady})
	m.drift("web", apply.Ref{Kind: "Deployment"})
	m.repaired("web", "repaired")
	m.forget("web")
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "bundle" {
					t.Errorf("%s still has a series of the bundle", family.GetName())
				}
			}
		}
	}
}
