package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// What a hostile or stale registry may offer: each is refused with its reason, nothing on the cluster changes, and the
// refusal is told with its stage, subject, rule and mend in the log, in the BundleDeployments, as an Event, in the status
// report and as a metric.
func TestRefusedTargets(t *testing.T) {
	const name = "ship-7"
	ctx := t.Context()
	cluster := newCluster(t, "refusals")
	fleet := newFleet(t, registry.Addr)
	statusKey, err := site.NewKey(ctx, "status-of-"+name)
	ok(t, err)
	publish(t, fleet)
	_, first, err := fleet.Target(ctx, name)
	ok(t, err)
	ok(t, fleet.Replace("bundles/sensors/pinnace.yaml", "SEND_EVERY: 15m", "SEND_EVERY: 20m"))
	commit(t, fleet, "Generation 2")
	publish(t, fleet)
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Name: name, StatusKey: statusKey, Interval: 200 * time.Millisecond})
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, harness.ExampleBundles[name]...))
	genuine, current, err := fleet.Target(ctx, name)
	ok(t, err)
	intruder, err := site.NewKey(ctx, "intruder")
	ok(t, err)

	push := func(key harness.Key, change func(*v1alpha1.Target)) func(*testing.T) {
		return func(t *testing.T) {
			target := genuine
			target.Generation += 10
			change(&target)
			ok(t, fleet.PushTarget(t.Context(), name, target, key))
		}
	}
	missing := genuine.Bundles[0].Name
	for _, tt := range []struct {
		name  string
		offer func(*testing.T)
		told  told
	}{
		{
			"signed with a wrong key", push(intruder, func(*v1alpha1.Target) {}),
			told{reason: "KeyNotTrusted", stage: "verify", subject: "targets/" + name, mend: `by rule "**": 1 signature, none counts: signed by a key that the rule doesn't name; sign it with one of: release`},
		},
		{
			"not signed", push(harness.Key{}, func(target *v1alpha1.Target) { target.Generation++ }),
			told{reason: "SignatureMissing", stage: "verify", subject: "targets/" + name, mend: `by rule "**": sign it with one of: release`},
		},
		{
			"another cluster's", func(t *testing.T) { copyTarget(t, fleet, "store-42", name) },
			told{reason: "WrongCluster", stage: "accept", subject: "target generation 1", mend: "set spec.cluster in the agent's configuration"},
		},
		{
			"another fleet's", push(fleet.Key, func(target *v1alpha1.Target) { target.Fleet = "other" }),
			told{reason: "WrongFleet", stage: "accept", subject: "target generation 12", mend: "set spec.fleet in the agent's configuration"},
		},
		{
			"older", func(t *testing.T) { ok(t, fleet.SetCurrent(t.Context(), name, first)) },
			told{reason: "Rollback", stage: "accept", subject: "target generation 1", mend: "a deliberate return is a new generation"},
		},
		{
			"the same generation with other content", push(fleet.Key, func(target *v1alpha1.Target) {
				target.Generation = genuine.Generation
				target.Interval = metav1.Duration{Duration: time.Hour}
			}),
			told{reason: "Equivocation", stage: "accept", subject: "target generation 2", mend: "find out who else publishes"},
		},
		{
			"expired", push(fleet.Key, func(target *v1alpha1.Target) {
				target.IssuedAt = metav1.NewTime(time.Now().Add(-2 * time.Hour))
				target.ExpiresAt = metav1.NewTime(time.Now().Add(-time.Hour))
			}),
			told{reason: "TargetExpired", stage: "accept", subject: "target generation 12", mend: "publish again"},
		},
		{
			"from the future", push(fleet.Key, func(target *v1alpha1.Target) {
				target.IssuedAt = metav1.NewTime(time.Now().Add(24 * time.Hour))
			}),
			told{reason: "ClockSkew", stage: "accept", subject: "target generation 12", mend: "set this node's clock, or the publisher's"},
		},
		{
			"without most of what runs", push(fleet.Key, func(target *v1alpha1.Target) { target.Bundles = target.Bundles[:1] }),
			told{reason: "PruneGuard", stage: "accept", subject: "target generation 12", mend: "publish with --allow-prune"},
		},
		// Last: its generation is the newest ever accepted from here on.
		{
			"with a bundle that is nowhere", push(fleet.Key, func(target *v1alpha1.Target) {
				bundles := append([]v1alpha1.TargetBundle{}, target.Bundles...)
				bundles[0].Digest = current.Digest.String()
				target.Bundles = bundles
			}),
			told{reason: "NotFound", stage: "fetch", bundle: missing, subject: fmt.Sprintf("bundle %q", missing), mend: "publish it, or complete the mirror"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			unchanged := settled(t, cluster)
			said, err := agent.Log()
			ok(t, err)
			tt.offer(t)
			tt.told.wait(t, fleet, cluster, agent, statusKey, len(said))
			now, err := cluster.Versions(t.Context())
			ok(t, err)
			if diff := cmp.Diff(unchanged, now); diff != "" {
				t.Errorf("the cluster was written to (-before +after):\n%s", diff)
			}
		})
	}
	ok(t, fleet.SetCurrent(ctx, name, current)) // what is in force stays acceptable while a newer target is incomplete
	ok(t, harness.Until(ctx, "the refusal to be over", func(ctx context.Context) error {
		report, err := reportOf(ctx, fleet, name, statusKey)
		if err == nil && report.Problem != nil {
			err = fmt.Errorf("the report says %s", report.Problem.Message)
		}
		return errors.Join(err, told{}.inBundles(ctx, cluster))
	}))
	ok(t, agent.Stop())
	push(intruder, func(*v1alpha1.Target) {})(t)
	_, err = agent.SyncOnce(ctx)
	wantExit(t, err, 6, "KeyNotTrusted")
	ok(t, fleet.SetCurrent(ctx, name, first))
	_, err = agent.SyncOnce(ctx)
	wantExit(t, err, 6, "Rollback", "a deliberate return is a new generation")
}

// told is what is told of a refusal; the zero value is that nothing is.
type told struct {
	reason, stage, subject, mend string
	bundle                       string // the one because of which a target was refused; of the target itself when empty
}

func (w told) wait(t *testing.T, fleet *harness.Fleet, cluster *harness.Cluster, agent *harness.Agent, key harness.Key, since int) {
	t.Helper()
	ok(t, harness.Until(t.Context(), w.reason+" to be told everywhere", func(ctx context.Context) error {
		return errors.Join(
			w.inLog(agent, since), w.inBundles(ctx, cluster), w.asEvent(ctx, cluster), w.asMetric(ctx, agent), w.inReport(ctx, fleet, agent.Name(), key),
		)
	}))
}

func (w told) inLog(agent *harness.Agent, since int) error {
	log, err := agent.Log()
	if err != nil {
		return err
	}
	for line := range strings.Lines(log[since:]) {
		if strings.Contains(line, "reason="+w.reason+" ") && strings.Contains(line, "stage="+w.stage+" ") &&
			strings.Contains(line, strings.Trim(strconv.Quote(w.subject), `"`)) && strings.Contains(line, strings.Trim(strconv.Quote(w.mend), `"`)) {
			return nil
		}
	}
	return fmt.Errorf("log: no line with %+v:\n%s", w, log[since:])
}

func (w told) inBundles(ctx context.Context, cluster *harness.Cluster) error {
	bundles, err := cluster.Bundles(ctx)
	if err != nil {
		return err
	}
	for name, bundle := range bundles {
		condition := meta.FindStatusCondition(bundle.Status.Conditions, v1alpha1.ConditionTargetRefused)
		switch wanted := w.reason != "" && (w.bundle == "" || w.bundle == name); {
		case !wanted && condition != nil:
			err = errors.Join(err, fmt.Errorf("BundleDeployment %s: %s: %s", name, condition.Reason, condition.Message))
		case wanted && (condition == nil || condition.Reason != w.reason || !strings.Contains(condition.Message, w.subject) || !strings.Contains(condition.Message, w.mend)):
			err = errors.Join(err, fmt.Errorf("BundleDeployment %s: condition %+v", name, condition))
		case bundle.Status.State != v1alpha1.StateReady:
			err = errors.Join(err, fmt.Errorf("BundleDeployment %s is %s", name, bundle.Status.State))
		}
	}
	return err
}

func (w told) asEvent(ctx context.Context, cluster *harness.Cluster) error {
	var list corev1.EventList
	if err := cluster.Client.List(ctx, &list); err != nil {
		return err
	}
	about := corev1.ObjectReference{Kind: "Lease", Name: "pinnace-agent"}
	if w.bundle != "" {
		about = corev1.ObjectReference{Kind: v1alpha1.KindBundleDeployment, Name: w.bundle}
	}
	for _, event := range list.Items {
		if event.Reason == w.reason && event.Type == corev1.EventTypeWarning && event.InvolvedObject.Kind == about.Kind &&
			event.InvolvedObject.Name == about.Name && strings.Contains(event.Message, w.mend) {
			return nil
		}
	}
	return fmt.Errorf("no event %s about %s %s", w.reason, about.Kind, about.Name)
}

func (w told) asMetric(ctx context.Context, agent *harness.Agent) error {
	metrics, err := agent.Get(ctx, "/metrics")
	if counted := fmt.Sprintf("pinnace_agent_refused_total{reason=%q} 1\n", w.reason); err == nil && !strings.Contains(metrics, counted) {
		err = fmt.Errorf("metrics: no %s", counted)
	}
	return err
}

func (w told) inReport(ctx context.Context, fleet *harness.Fleet, cluster string, key harness.Key) error {
	report, err := reportOf(ctx, fleet, cluster, key)
	if err != nil {
		return err
	}
	if p := report.Problem; p == nil || p.Reason != w.reason || p.Object != w.stage || !strings.Contains(p.Message, w.subject) || !strings.Contains(p.Message, w.mend) {
		return fmt.Errorf("report: problem %+v", p)
	}
	return nil
}

// reportOf reads a cluster's signed report.
func reportOf(ctx context.Context, fleet *harness.Fleet, cluster string, key harness.Key) (report v1alpha1.StatusReport, err error) {
	repo, err := fleet.Repository(v1alpha1.StatusRepository(cluster))
	if err != nil {
		return report, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return report, err
	}
	manifest, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return report, err
	}
	envelope, err := oci.ReadAll(ctx, repo, manifest.Layers[0], v1alpha1.MaxReportSize*2)
	if err != nil {
		return report, err
	}
	public, err := os.ReadFile(key.Public)
	if err != nil {
		return report, err
	}
	payload, err := signing.OpenEnvelope(public, v1alpha1.MediaTypeStatus, envelope)
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(payload, &report)
}

// settled returns the versions of what runs once they no longer change by themselves.
func settled(t *testing.T, cluster *harness.Cluster) map[string]string {
	t.Helper()
	var before map[string]string
	ok(t, harness.Until(t.Context(), "the cluster to settle", func(ctx context.Context) error {
		now, err := cluster.Versions(ctx)
		if err == nil && !maps.Equal(before, now) {
			before, err = now, errors.New("it changed")
		}
		return err
	}))
	return before
}

// copyTarget offers one cluster's target, with its signature, to another.
func copyTarget(t *testing.T, fleet *harness.Fleet, from, to string) {
	t.Helper()
	_, desc, err := fleet.Target(t.Context(), from)
	ok(t, err)
	src, err := fleet.Repository(v1alpha1.TargetRepository(from))
	ok(t, err)
	dst, err := fleet.Repository(v1alpha1.TargetRepository(to))
	ok(t, err)
	ok(t, oci.Copy(t.Context(), src, dst, desc, v1alpha1.TagCurrent))
}
