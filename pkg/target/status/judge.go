package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Verdict on a cluster: a closed set, worst first.
type Verdict string

const (
	Untrusted Verdict = "Untrusted" // the report isn't signed by the cluster's key
	Refused   Verdict = "Refused"   // the agent refused the newest target
	Failed    Verdict = "Failed"
	Drifted   Verdict = "Drifted"
	Unseen    Verdict = "Unseen"   // no report yet
	Updating  Verdict = "Updating" // the report speaks of another target, or bundles are on their way
	Ready     Verdict = "Ready"
)

var severity = []Verdict{Untrusted, Refused, Failed, Drifted, Unseen, Updating, Ready}

// Cluster is one cluster's verdict with what it is based on.
type Cluster struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Verdict Verdict           `json:"verdict"`
	Reason  string            `json:"reason,omitempty"`
	Message string            `json:"message,omitempty"`
	// Generation is the published target's, ReportedGeneration the one that the report speaks of.
	Generation         int64                     `json:"generation"`
	ReportedGeneration int64                     `json:"reportedGeneration,omitempty"`
	ReportedAt         metav1.Time               `json:"reportedAt,omitzero"`
	ReadyBundles       int                       `json:"readyBundles"`
	AllBundles         int                       `json:"bundles"`
	Bundles            []v1alpha1.ReportedBundle `json:"bundleStates,omitempty"`
	Kubernetes         string                    `json:"kubernetes,omitempty"`
	Agent              string                    `json:"agent,omitempty"`
}

// verdicts of a bundle's states.
var verdicts = map[v1alpha1.State]Verdict{
	v1alpha1.StateRefused: Refused, v1alpha1.StateFailed: Failed, v1alpha1.StateContested: Drifted, v1alpha1.StateDrifted: Drifted,
	v1alpha1.StateWaiting: Updating, v1alpha1.StateUpdating: Updating, v1alpha1.StateReady: Ready,
}

// Judge decides what a trusted report says of a cluster.
func Judge(published v1alpha1.IndexCluster, report v1alpha1.StatusReport) Cluster {
	out := fromIndex(published)
	out.ReportedGeneration, out.ReportedAt = report.Target.Generation, report.ReportedAt
	out.Kubernetes, out.Agent, out.Bundles = report.Kubernetes, report.Agent, report.Bundles
	out.Verdict, out.Reason, out.Message = Ready, "", ""
	for _, bundle := range report.Bundles {
		verdict, known := verdicts[bundle.State]
		if !known {
			verdict = Failed
		}
		if verdict == Ready {
			out.ReadyBundles++
			continue
		}
		if worse(verdict, out.Verdict) {
			out.Verdict, out.Reason = verdict, bundle.Reason
			out.Message = bundle.Name + ": " + cmp.Or(bundle.Message, string(bundle.State))
		}
	}
	switch {
	case report.Problem != nil:
		out.Verdict, out.Reason, out.Message = Refused, report.Problem.Reason, report.Problem.Message
	case report.Target.Digest != published.Digest:
		if out.Verdict == Ready {
			out.Verdict, out.Reason = Updating, "OtherTarget"
			out.Message = fmt.Sprintf("runs generation %d, published is %d", report.Target.Generation, published.Generation)
		}
	case report.Target.Stale:
		out.Message = "the target has expired; publish again"
	}
	return out
}

func fromIndex(published v1alpha1.IndexCluster) Cluster {
	return Cluster{
		Name: published.Name, Labels: published.Labels, Generation: published.Generation,
		AllBundles: len(published.Bundles), Verdict: Unseen, Reason: "NoReport", Message: "the agent has not reported yet",
	}
}

func worse(a, b Verdict) bool { return slices.Index(severity, a) < slices.Index(severity, b) }

// Summary counts clusters and bundles by state.
type Summary struct {
	Fleet       string          `json:"fleet"`
	Publication int64           `json:"publication"`
	Ready       bool            `json:"ready"`
	Verdict     string          `json:"verdict"` // one line
	Counts      map[Verdict]int `json:"counts"`
	Clusters    []Cluster       `json:"clusters"`
	Bundles     []Bundle        `json:"bundles"`
}

// Bundle is one bundle over all clusters.
type Bundle struct {
	Name     string                 `json:"name"`
	Clusters int                    `json:"clusters"`
	Ready    int                    `json:"ready"`
	States   map[v1alpha1.State]int `json:"states,omitempty"`
	Message  string                 `json:"message,omitempty"`
}

// Summarise counts what was judged; clusters come worst first, and by name.
func Summarise(index v1alpha1.FleetIndex, clusters []Cluster) Summary {
	out := Summary{Fleet: index.Fleet, Publication: index.Publication, Counts: map[Verdict]int{}, Clusters: slices.Clone(clusters)}
	slices.SortFunc(out.Clusters, func(a, b Cluster) int {
		return cmp.Or(cmp.Compare(slices.Index(severity, a.Verdict), slices.Index(severity, b.Verdict)), cmp.Compare(a.Name, b.Name))
	})
	bundles := map[string]*Bundle{}
	for _, cluster := range index.Clusters {
		for _, name := range cluster.Bundles {
			if bundles[name] == nil {
				bundles[name] = &Bundle{Name: name, States: map[v1alpha1.State]int{}}
			}
			bundles[name].Clusters++
		}
	}
	for _, cluster := range clusters {
		out.Counts[cluster.Verdict]++
		for _, reported := range cluster.Bundles {
			bundle := bundles[reported.Name]
			if bundle == nil {
				continue // it left the fleet
			}
			bundle.States[reported.State]++
			if reported.State == v1alpha1.StateReady {
				bundle.Ready++
			} else if bundle.Message == "" {
				bundle.Message = cluster.Name + ": " + cmp.Or(reported.Message, string(reported.State))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		out.Bundles = append(out.Bundles, *bundles[name])
	}
	out.Ready = len(clusters) > 0 && out.Counts[Ready] == len(clusters)
	out.Verdict = verdictLine(out.Counts, len(clusters))
	return out
}

func verdictLine(counts map[Verdict]int, all int) string {
	if counts[Ready] == all {
		return fmt.Sprintf("all %d clusters ready", all)
	}
	parts := []string{fmt.Sprintf("%d of %d clusters ready", counts[Ready], all)}
	for _, verdict := range severity {
		if n := counts[verdict]; n > 0 && verdict != Ready {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(string(verdict))))
		}
	}
	return strings.Join(parts, ", ")
}
