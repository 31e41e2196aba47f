package status

import (
	"cmp"
	"fmt"
	"slices"
	"time"

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
	Unseen    Verdict = "Unseen"   // no report, or none lately
	Updating  Verdict = "Updating" // the report speaks of another target, or bundles are on their way
	Ready     Verdict = "Ready"
)

// Verdicts lists all, worst first.
var Verdicts = []Verdict{Untrusted, Refused, Failed, Drifted, Unseen, Updating, Ready}

// DefaultUnseenAfter is four heartbeats of an agent.
const DefaultUnseenAfter = time.Hour

// Options of judging.
type Options struct {
	Now time.Time
	// UnseenAfter is how old the newest report of a present cluster may be; DefaultUnseenAfter when zero.
	UnseenAfter time.Duration
}

// Cluster is one cluster's verdict with what it is based on.
type Cluster struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Verdict Verdict           `json:"verdict"`
	Reason  string            `json:"reason,omitempty"`
	Message string            `json:"message,omitempty"`
	// Bundle that the verdict is about, if it is about one.
	Bundle string `json:"bundle,omitempty"`
	// Since is when it became so, as far as the report tells; of an unseen cluster, its last report.
	Since metav1.Time `json:"since,omitzero"`
	// Generation is the published target's, ReportedGeneration the one that the report speaks of.
	Generation         int64                      `json:"generation"`
	ReportedGeneration int64                      `json:"reportedGeneration,omitempty"`
	LastGood           *v1alpha1.ReportedTarget   `json:"lastGood,omitempty"`
	ReportedAt         metav1.Time                `json:"reportedAt,omitzero"`
	ReadyBundles       int                        `json:"readyBundles"`
	AllBundles         int                        `json:"bundles"`
	Bundles            []v1alpha1.ReportedBundle  `json:"bundleStates,omitempty"`
	Rollouts           []v1alpha1.ReportedRollout `json:"rollouts,omitempty"`
	Drift              []v1alpha1.DriftEvent      `json:"drift,omitempty"`
	Kubernetes         string                     `json:"kubernetes,omitempty"`
	Agent              string                     `json:"agent,omitempty"`
	Nodes              int                        `json:"nodes,omitempty"`
	Architectures      []string                   `json:"architectures,omitempty"`
}

// verdicts of a bundle's states.
var verdicts = map[v1alpha1.State]Verdict{
	v1alpha1.StateRefused: Refused, v1alpha1.StateFailed: Failed, v1alpha1.StateContested: Drifted, v1alpha1.StateDrifted: Drifted,
	v1alpha1.StateWaiting: Updating, v1alpha1.StateUpdating: Updating, v1alpha1.StateReady: Ready,
}

// VerdictOf a bundle's state; one that this program doesn't know is worse than what it knows to be good.
func VerdictOf(state v1alpha1.State) Verdict {
	if verdict, known := verdicts[state]; known {
		return verdict
	}
	return Failed
}

// JudgeAll judges every cluster of the index by its report, in order.
func JudgeAll(index v1alpha1.FleetIndex, reports []Report, opts Options) []Cluster {
	clusters := make([]Cluster, len(index.Clusters))
	for i := range index.Clusters {
		clusters[i] = Judge(index.Clusters[i], reports[i], opts)
	}
	return clusters
}

// Judge decides what a report says of a cluster.
func Judge(published v1alpha1.IndexCluster, report Report, opts Options) Cluster {
	out := Cluster{Name: published.Name, Labels: published.Labels, Generation: published.Generation, AllBundles: len(published.Bundles)}
	switch {
	case report.Untrusted != "":
		out.Verdict, out.Reason, out.Message = Untrusted, "UntrustedReport", report.Untrusted
		return out
	case report.Status == nil:
		out.Verdict, out.Reason, out.Message = Unseen, "NoReport", "the agent has not reported yet"
		return out
	}
	out.take(report.Status)
	out.judgeBundles(report.Status)
	out.judgeTarget(published, report.Status)
	out.judgeAge(opts)
	return out
}

// take copies what a trusted report says.
func (c *Cluster) take(report *v1alpha1.StatusReport) {
	c.ReportedGeneration, c.ReportedAt, c.LastGood = report.Target.Generation, report.ReportedAt, report.LastGood
	c.Kubernetes, c.Agent, c.Nodes, c.Architectures = report.Kubernetes, report.Agent, report.Nodes, report.Architectures
	c.Bundles, c.Rollouts, c.Drift = report.Bundles, report.Rollouts, report.Drift
}

// judgeBundles takes the worst of the bundles' states.
func (c *Cluster) judgeBundles(report *v1alpha1.StatusReport) {
	c.Verdict = Ready
	for i := range report.Bundles {
		bundle := &report.Bundles[i]
		verdict := VerdictOf(bundle.State)
		if verdict == Ready {
			c.ReadyBundles++
			continue
		}
		if worse(verdict, c.Verdict) {
			c.Verdict, c.Reason, c.Bundle, c.Since = verdict, bundle.Reason, bundle.Name, bundle.Since
			c.Message = bundle.Name + ": " + cmp.Or(bundle.Message, string(bundle.State))
		}
	}
	if report.Shortened {
		// Bundles that were left out are ready.
		c.ReadyBundles += max(0, c.AllBundles-len(report.Bundles))
	}
}

func (c *Cluster) judgeTarget(published v1alpha1.IndexCluster, report *v1alpha1.StatusReport) {
	switch {
	case report.Problem != nil:
		c.Verdict, c.Reason, c.Message, c.Bundle = Refused, report.Problem.Reason, report.Problem.Message, ""
	case report.Target.Digest != published.Digest:
		if c.Verdict == Ready {
			c.Verdict, c.Reason, c.Bundle = Updating, "OtherTarget", ""
			c.Message = fmt.Sprintf("runs generation %d, published is %d", report.Target.Generation, published.Generation)
		}
	case report.Target.Stale:
		c.Message = "the target has expired; publish again"
	}
	if c.Verdict != Ready || c.Message != "" {
		return
	}
	for _, rollout := range report.Rollouts {
		if rollout.State == v1alpha1.RolloutWaiting || rollout.State == v1alpha1.RolloutReverted {
			c.Message = "rollout " + rollout.Name + " " + cmp.Or(rollout.Message, "waits for its turn")
			c.Reason = "Rollout" + string(rollout.State)
		}
	}
}

// judgeAge makes a cluster unseen that was not heard from lately, whatever it said then.
func (c *Cluster) judgeAge(opts Options) {
	limit := opts.UnseenAfter
	if limit <= 0 {
		limit = DefaultUnseenAfter
	}
	age := opts.Now.Sub(c.ReportedAt.Time)
	if opts.Now.IsZero() || age <= limit {
		return
	}
	was := c.Verdict
	c.Verdict, c.Reason, c.Bundle, c.Since = Unseen, "Silent", "", c.ReportedAt
	c.Message = fmt.Sprintf("not heard from since %s; it was %s then", c.ReportedAt.UTC().Format(time.RFC3339), was)
}

func worse(a, b Verdict) bool { return slices.Index(Verdicts, a) < slices.Index(Verdicts, b) }
