package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

func TestSyncAppliesInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crds, web, shop := w.bundle("crds", "1"), w.bundle("web", "1"), w.bundle("shop", "1")
	shop.DependsOn = []string{"crds", "web"}
	web.DependsOn = []string{"crds"}
	desc := w.publish(target(1, crds, shop, web))

	result := w.sync()
	if result.Problem != nil || !result.Changed {
		t.Fatalf("problem %v, changed %v; want none, true\n%s", result.Problem, result.Changed, w.log)
	}
	if diff := cmp.Diff([]string{"deploy crds", "deploy web", "deploy shop"}, w.deployer.took()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"crds=Ready", "shop=Ready", "web=Ready"}, states(result.Report)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := result.Report.Target; got.Digest != desc.Digest.String() || got.Generation != 1 || got.Stale {
		t.Errorf("reported target %+v", got)
	}
	if got := w.holder.known; got.Generation != 1 || got.Digest != desc.Digest.String() {
		t.Errorf("the cluster remembers %+v", got)
	}
	if !w.holder.released {
		t.Error("the Lease was not given back")
	}
	if len(w.cluster.now()) != 3 || w.cluster.now()[0].Status.AppliedDigest == "" {
		t.Errorf("BundleDeployments: %+v", w.cluster.now())
	}
}

func TestSyncUnchangedIsOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(target(1, w.bundle("web", "1")))
	w.sync()
	w.registry.taken()
	result := w.sync()
	if diff := cmp.Diff([]string{"HEAD targets/factory-07 current"}, w.registry.taken()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if result.Changed {
		t.Error("an unchanged target counts as changed")
	}
}

func TestSyncChangesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	web, shop, old := w.bundle("web", "1"), w.bundle("shop", "1"), w.bundle("old", "1")
	w.publish(target(1, old, shop, web))
	a, closeState := w.agent()
	defer closeState()
	syncAgent(t, w, a)
	w.deployer.took()

	web = w.bundle("web", "2")
	w.publish(target(2, shop, web))
	a.Hint()
	result := syncAgent(t, w, a)
	// A second pass of the same agent enforces everything once, then brings what changed, then removes what left.
	calls := strings.Join(w.deployer.took(), ", ")
	if !strings.HasSuffix(calls, "remove old") || !strings.Contains(calls, "deploy web") {
		t.Errorf("calls: %s", calls)
	}
	if diff := cmp.Diff([]string{"2"}, w.deployer.text("web")); diff != "" {
		t.Errorf("web runs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"shop=Ready", "web=Ready"}, states(result.Report)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func syncAgent(t *testing.T, w *world, a *agent.Agent) agent.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	result, err := a.Sync(ctx)
	if err != nil {
		t.Fatalf("Sync: %v\n%s", err, w.log)
	}
	return result
}

// Each refusal leaves alone what runs: the target before stays in force and nothing is deployed or removed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// publish makes the second target current; the first has generation 5 and bundles web and shop.
		publish func(w *world, first v1alpha1.Target)
		want    agent.Reason
		stage   agent.Stage
	}{
		{"not signed", func(w *world, first v1alpha1.Target) {
			w.publishAs(next(first), nil)
		}, agent.ReasonSignatureMissing, agent.StageVerify},
		{"signed by a stranger", func(w *world, first v1alpha1.Target) {
			w.publishAs(next(first), foreignKey().signer)
		}, agent.ReasonKeyNotTrusted, agent.StageVerify},
		{"another cluster's", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Cluster = "factory-08"
			w.publish(second)
		}, agent.ReasonWrongCluster, agent.StageAccept},
		{"another fleet's", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Fleet = "emca"
			w.publish(second)
		}, agent.ReasonWrongFleet, agent.StageAccept},
		{"older generation", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Generation = 4
			w.publish(second)
		}, agent.ReasonRollback, agent.StageAccept},
		{"same generation, other content", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Generation = first.Generation
			w.publish(second)
		}, agent.ReasonEquivocation, agent.StageAccept},
		{"expired", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.ExpiresAt = metav1.NewTime(time.Now().Add(-time.Second))
			w.publish(second)
		}, agent.ReasonTargetExpired, agent.StageAccept},
		{"issued in the future", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.IssuedAt = metav1.NewTime(time.Now().Add(agent.MaxClockSkew + time.Minute))
			w.publish(second)
		}, agent.ReasonClockSkew, agent.StageAccept},
		{"unknown field", func(w *world, _ v1alpha1.Target) {
			w.publishDocument([]byte(`{"apiVersion":"pinnace.dev/v1alpha1","kind":"Target","fleet":"acme","unknown":1}`), releaseKey().signer)
		}, agent.ReasonDigestMismatch, agent.StageFetch},
		{"too large", func(w *world, _ v1alpha1.Target) {
			w.publishDocument([]byte(`{"fleet":"`+strings.Repeat("x", oci.MaxTarget)+`"}`), releaseKey().signer)
		}, agent.ReasonTooLarge, agent.StageFetch},
		{"bundle named twice", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles = append(second.Bundles, second.Bundles[0])
			w.publish(second)
		}, agent.ReasonInvalidTarget, agent.StageAccept},
		{"dependencies in a circle", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[0].DependsOn = []string{second.Bundles[1].Name}
			second.Bundles[1].DependsOn = []string{second.Bundles[0].Name}
			w.publish(second)
		}, agent.ReasonInvalidTarget, agent.StageAccept},
		{"bundle name that leaves the state folder", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[0].Name = "../../etc/passwd"
			w.publish(second)
		}, agent.ReasonInvalidTarget, agent.StageAccept},
		{"empty", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles = nil
			w.publish(second)
		}, agent.ReasonPruneGuard, agent.StageAccept},
		{"bundle not signed", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[1] = w.bundleOf("web", nil, map[string][]byte{"a.yaml": []byte(configMaps("web", "evil"))})
			w.publish(second)
		}, agent.ReasonSignatureMissing, agent.StageVerify},
		{"bundle signed by a stranger", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[1] = w.bundleOf("web", foreignKey().signer, map[string][]byte{"a.yaml": []byte(configMaps("web", "evil"))})
			w.publish(second)
		}, agent.ReasonKeyNotTrusted, agent.StageVerify},
		{"bundle absent", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[1].Digest = "sha256:" + strings.Repeat("a", 64)
			w.publish(second)
		}, agent.ReasonNotFound, agent.StageFetch},
		{"bundle's layer is another", func(w *world, first v1alpha1.Target) {
			second := next(first)
			second.Bundles[1].LayerDigest = "sha256:" + strings.Repeat("a", 64)
			w.publish(second)
		}, agent.ReasonInvalidBundle, agent.StageVerify},
		{"another bundle under the name", func(w *world, first v1alpha1.Target) {
			second := next(first)
			other := w.bundle("other", "x")
			other.Name = "web"
			second.Bundles[1] = other
			w.publish(second)
		}, agent.ReasonInvalidBundle, agent.StageVerify},
		{"registry down", func(w *world, _ v1alpha1.Target) {
			w.registry.set(fmt.Errorf("HEAD: %w", oci.ErrUnreachable))
		}, agent.ReasonUnreachable, agent.StageResolve},
		{"registry refuses the credentials", func(w *world, _ v1alpha1.Target) {
			w.registry.set(fmt.Errorf("HEAD: %w", oci.ErrUnauthorized))
		}, agent.ReasonUnauthorized, agent.StageResolve},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := target(5, w.bundle("shop", "1"), w.bundle("web", "1"))
			w.publish(first)
			a, closeState := w.agent()
			before := syncAgent(t, w, a)
			closeState()
			runs, known := w.deployer.text("web"), w.holder.known
			w.deployer.took()

			test.publish(w, first)
			result := w.sync()
			var refusal *agent.Error
			if !errors.As(result.Problem, &refusal) {
				t.Fatalf("problem %v, want an *agent.Error", result.Problem)
			}
			if refusal.Reason != test.want || refusal.Stage != test.stage {
				t.Errorf("refused with %s at %s, want %s at %s: %v", refusal.Reason, refusal.Stage, test.want, test.stage, refusal)
			}
			if strings.Contains(refusal.Error(), "\n") {
				t.Errorf("not one line: %q", refusal.Error())
			}
			if result.Report.Problem == nil || result.Report.Problem.Reason != string(test.want) {
				t.Errorf("reported problem %+v", result.Report.Problem)
			}
			if diff := cmp.Diff(before.Report.Target, result.Report.Target); diff != "" {
				t.Errorf("target in force (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"shop=Ready", "web=Ready"}, states(result.Report)); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(runs, w.deployer.text("web")); diff != "" {
				t.Errorf("web runs (-before +after):\n%s", diff)
			}
			for _, call := range w.deployer.took() {
				if strings.HasPrefix(call, "remove") {
					t.Errorf("%s", call)
				}
			}
			if test.stage == agent.StageAccept && w.holder.known != known {
				t.Errorf("the cluster remembers %+v, before %+v", w.holder.known, known)
			}
		})
	}
}

// next is a following target with the same bundles.
func next(first v1alpha1.Target) v1alpha1.Target {
	second := target(first.Generation+1, append([]v1alpha1.TargetBundle(nil), first.Bundles...)...)
	second.Interval = metav1.Duration{Duration: time.Hour} // another digest
	return second
}

// A wiped disk must not permit what the cluster remembers as old.
func TestRollbackAfterDiskLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bundle := w.bundle("web", "1")
	w.publish(target(7, bundle))
	w.sync()
	w.dir = t.TempDir()
	w.publish(target(6, bundle))
	w.deployer.took()
	result := w.sync()
	if got := agent.ReasonOf(result.Problem, ""); got != agent.ReasonRollback {
		t.Errorf("reason %q, want %q: %v", got, agent.ReasonRollback, result.Problem)
	}
	if calls := w.deployer.took(); len(calls) > 0 {
		t.Errorf("calls %v, want none", calls)
	}
}

func TestAllowPruneRemovesEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(target(1, w.bundle("shop", "1"), w.bundle("web", "1")))
	w.sync()
	empty := target(2)
	empty.AllowPrune = true
	w.publish(empty)
	result := w.sync()
	if result.Problem != nil || len(w.deployer.running) != 0 || len(result.Report.Bundles) != 0 {
		t.Errorf("problem %v, running %v, reported %v", result.Problem, w.deployer.running, result.Report.Bundles)
	}
}

// A restart without any registry enforces the last good target, even one that has expired since.
func TestOfflineStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := target(1, w.bundle("web", "1"))
	first.ExpiresAt = metav1.NewTime(time.Now().Add(1500 * time.Millisecond))
	w.publish(first)
	w.sync()
	w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
	for time.Now().Before(first.ExpiresAt.Time) {
		<-time.After(time.Until(first.ExpiresAt.Time))
	}
	w.deployer.took()
	result := w.sync()
	if diff := cmp.Diff([]string{"deploy web"}, w.deployer.took()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if !result.Report.Target.Stale {
		t.Error("an expired target is not reported as stale")
	}
	if got := agent.ReasonOf(result.Problem, ""); got != agent.ReasonUnreachable {
		t.Errorf("problem %v", result.Problem)
	}
}

func TestDamagedBlobIsFetchedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	web, shop := w.bundle("web", "1"), w.bundle("shop", "1")
	w.publish(target(1, shop, web))
	w.sync()
	damage(t, w.dir, web.LayerDigest)

	w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
	w.deployer.took()
	result := w.sync()
	if diff := cmp.Diff([]string{"shop=Ready", "web=Failed"}, states(result.Report)); diff != "" {
		t.Errorf("without a registry (-want +got):\n%s", diff)
	}
	if text := result.Report.Bundles[1].Message; !strings.Contains(text, web.LayerDigest) {
		t.Errorf("the message doesn't name the blob: %s", text)
	}

	w.registry.set(nil)
	result = w.sync()
	if diff := cmp.Diff([]string{"shop=Ready", "web=Ready"}, states(result.Report)); diff != "" {
		t.Errorf("with a registry (-want +got):\n%s", diff)
	}
}

// Whoever writes to the disk must not reach the cluster.
func TestChangedStateIsNotTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	web := w.bundle("web", "1")
	w.publish(target(1, web))
	w.sync()
	w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
	w.deployer.took()
	result := w.sync(func(config *agent.Config) { config.Verifier = verifier{foreignKey().verifier} })
	if calls := w.deployer.took(); len(calls) > 0 {
		t.Errorf("calls %v, want none: the policy no longer trusts the signer", calls)
	}
	if result.Report.Target.Digest != "" {
		t.Errorf("target %+v is in force", result.Report.Target)
	}
}

func damage(t *testing.T, dir, digest string) {
	t.Helper()
	path := filepath.Join(dir, "content", "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOneFailureHoldsUpOnlyItsDependents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	db, web, other := w.bundle("db", "1"), w.bundle("web", "1"), w.bundle("other", "1")
	web.DependsOn = []string{"db"}
	w.deployer.fail["db"] = errors.New("quota exceeded")
	w.publish(target(1, db, other, web))
	result := w.sync()
	if diff := cmp.Diff([]string{"db=Failed", "other=Ready", "web=Waiting"}, states(result.Report)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := result.Report.Bundles[2]; got.Reason != string(agent.ReasonDependencyFailed) || !strings.Contains(got.Message, "db") {
		t.Errorf("web: %s: %s", got.Reason, got.Message)
	}
}

func TestOutOfScopeRefusesOneBundle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good, bad := w.bundle("good", "1"), w.bundleOf("bad", releaseKey().signer, map[string][]byte{
		"a.yaml": []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: kube-system}\n"),
	})
	w.publish(target(1, bad, good))
	limits := []v1alpha1.Limit{{Source: "*", Namespaces: []string{"app*"}}}
	result := w.sync(func(config *agent.Config) { config.Limits = limits })
	if diff := cmp.Diff([]string{"bad=Refused", "good=Ready"}, states(result.Report)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := result.Report.Bundles[0]; got.Reason != string(agent.ReasonOutOfScope) || !strings.Contains(got.Message, "kube-system") {
		t.Errorf("bad: %s: %s", got.Reason, got.Message)
	}
	if diff := cmp.Diff([]string{"deploy good"}, w.deployer.took()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bundle := w.bundle("web", "${site} is ${state:=open}")
	bundle.Variables = map[string]string{"site": "factory"}
	w.publish(target(1, bundle))
	w.sync()
	if diff := cmp.Diff([]string{"factory is open"}, w.deployer.text("web")); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	bundle.Variables = map[string]string{"town": "x"}
	w.publish(target(2, bundle))
	result := w.sync()
	if got := result.Report.Bundles[0]; got.Reason != string(agent.ReasonVariableMissing) || !strings.Contains(got.Message, "site") {
		t.Errorf("%s: %s: %s", got.State, got.Reason, got.Message)
	}
	if diff := cmp.Diff([]string{"factory is open"}, w.deployer.text("web")); diff != "" {
		t.Errorf("what runs changed (-want +got):\n%s", diff)
	}
}

func TestSecondRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(target(1, w.bundle("web", "1")))
	dead := &registry{Registry: oci.NewMemory(), down: fmt.Errorf("dial: %w", oci.ErrUnreachable)}
	result := w.sync(func(config *agent.Config) { config.Registries = []oci.Registry{dead, w.registry} })
	if result.Problem != nil || len(w.deployer.running) != 1 {
		t.Errorf("problem %v, running %v", result.Problem, w.deployer.running)
	}
}

func TestAnotherAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(target(1, w.bundle("web", "1")))
	w.holder.err = &agent.Error{Stage: agent.StageHold, Subject: "Lease x", Reason: agent.ReasonAnotherAgent, Err: errors.New("held")}
	a, closeState := w.agent()
	defer closeState()
	if _, err := a.Sync(t.Context()); agent.ReasonOf(err, "") != agent.ReasonAnotherAgent {
		t.Errorf("Sync: %v", err)
	}
	if calls := w.deployer.took(); len(calls) > 0 {
		t.Errorf("calls %v, want none", calls)
	}
}
