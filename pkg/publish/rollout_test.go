package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/rollout"
	"pinnace.dev/pinnace/pkg/target/status"
)

const rolledOut = `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  registry: 127.0.0.1:1/acme
  inventory: [clusters]
  sources: [{name: apps, paths: ["bundles/*"], targets: [{}]}]
  rollout:
    canaries: [east]
    maxUnavailable: 100%
    bake: 10m
`

// site is a fleet with a rollout, its registry, and what its clusters report.
type site struct {
	t        *testing.T
	dir      string
	registry oci.Registry
	opts     Options
	states   map[string]v1alpha1.RolloutState
	now      time.Time
	files    map[string]string
}

func newSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	s := &site{t: t, registry: oci.NewMemory(), states: map[string]v1alpha1.RolloutState{}, now: start, files: maps.Clone(files)}
	s.dir = write(t, t.TempDir(), files)
	s.opts = options(t, s.dir, releaseSigner(t))
	s.opts.Now = func() time.Time { return s.now }
	return s
}

func (s *site) publish(files map[string]string) Result {
	s.t.Helper()
	maps.Copy(s.files, files)
	write(s.t, s.dir, s.files)
	return mustRun(s.t, s.registry, s.opts)
}

func (s *site) options() gates.Options {
	s.t.Helper()
	verifier, err := signing.NewKeyVerifier("key", s.opts.Signer.PublicKey())
	if err != nil {
		s.t.Fatal(err)
	}
	index, _, err := ReadIndex(s.t.Context(), s.registry, verifier)
	if err != nil {
		s.t.Fatal(err)
	}
	opts := gates.Options{Registry: s.registry, Verifier: verifier, Signer: s.opts.Signer, Index: index, Now: s.now}
	for _, cluster := range index.Clusters {
		report := &v1alpha1.StatusReport{ReportedAt: metav1.NewTime(s.now), Target: v1alpha1.ReportedTarget{Digest: cluster.Digest}}
		for _, announced := range cluster.Rollouts {
			report.Rollouts = append(report.Rollouts, v1alpha1.ReportedRollout{
				Name: announced.Name, Plan: announced.Plan, State: s.states[cluster.Name], StartedAt: metav1.NewTime(s.now), Gate: 1 << 40,
			})
		}
		opts.Reports = append(opts.Reports, status.Report{Digest: "sha256:1", Status: report})
	}
	return opts
}

func (s *site) step(name string) gates.Result {
	s.t.Helper()
	result, err := gates.Step(s.t.Context(), name, s.options())
	if err != nil {
		s.t.Fatal(err)
	}
	return result
}

// offer is what a cluster's target says of bundle a: digest now, and digest announced.
func (s *site) offer(cluster string) (now, next string, rollouts []v1alpha1.TargetRollout) {
	s.t.Helper()
	got, err := seen(s.t, s.registry, s.opts.Signer, cluster)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, bundle := range got.Bundles {
		if bundle.Name == "a" {
			now = bundle.Digest
		}
	}
	for _, announced := range got.Rollouts {
		for _, bundle := range announced.Bundles {
			if bundle.Name == "a" {
				next = bundle.Digest
			}
		}
	}
	return now, next, got.Rollouts
}

func TestRolloutIsAnnounced(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	if first := s.publish(nil); len(first.Rollouts) != 0 {
		t.Errorf("the first publish waits for a gate: %+v", first.Rollouts)
	}
	was, _, _ := s.offer("east")
	result := s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	if len(result.Rollouts) != 1 || result.Rollouts[0].Clusters != 2 || fmt.Sprint(result.Rollouts[0].Bundles) != "[a]" {
		t.Fatalf("got %+v", result.Rollouts)
	}
	now, next, announced := s.offer("east")
	if now != was || next == "" || next == was || announced[0].Wave != 0 || announced[0].LateWave != 2 {
		t.Errorf("east: now %s (was %s), next %s, %+v", now, was, next, announced)
	}
	if again := s.publish(nil); again.Changed() {
		t.Errorf("the same input publishes: %+v", again.Targets)
	}

	// A fix in the middle begins anew. The canary, which was let in, starts from what it has.
	s.step("fleet")
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "3")})
	if now, _, announced := s.offer("east"); now != next || announced[0].Plan != 2 {
		t.Errorf("the canary has %s, want %s; plan %d, want 2", now, next, announced[0].Plan)
	}
	if now, _, _ := s.offer("west"); now != was {
		t.Errorf("west was not let in and has %s, want %s", now, was)
	}

	// Without a strategy everything comes at once.
	s.publish(map[string]string{"pinnace.yaml": strings.Split(rolledOut, "  rollout:")[0]})
	if _, _, announced := s.offer("west"); len(announced) != 0 {
		t.Errorf("the strategy is gone, and still something is announced: %+v", announced)
	}
}

func TestRolloutRuns(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	_, next, _ := s.offer("west")
	open := func(cluster string) bool {
		_, _, announced := s.offer(cluster)
		gate := s.step("fleet").Gate
		return gate.Open(announced[0].Wave, announced[0].Bucket)
	}
	if !open("east") || open("west") {
		t.Error("at first the canary is let in, and nobody else")
	}
	s.states["east"] = v1alpha1.RolloutDone
	if result := s.step("fleet"); result.Gate.Phase != v1alpha1.RolloutBaking || result.BakeLeft != 10*time.Minute {
		t.Errorf("got %s, %s left", result.Gate.Phase, result.BakeLeft)
	}
	if result := s.step("fleet"); result.Written {
		t.Error("a step that has nothing to say writes")
	}
	s.now = s.now.Add(11 * time.Minute)
	if !open("west") {
		t.Error("after the bake west is let in")
	}
	s.states["west"] = v1alpha1.RolloutDone
	s.step("fleet")
	s.now = s.now.Add(11 * time.Minute)
	if result := s.step("fleet"); result.Gate.Phase != v1alpha1.RolloutCompleted {
		t.Errorf("got %s: %s", result.Gate.Phase, result.Gate.Message)
	}
	// The next change starts from there; a new cluster meanwhile comes last.
	s.publish(map[string]string{
		"bundles/a/cm.yaml": configMap("a", "3"), "clusters/all.yaml": cluster("east") + "---\n" + cluster("west") + "---\n" + cluster("north"),
	})
	if now, _, announced := s.offer("west"); now != next || announced[0].Plan != 2 {
		t.Errorf("west has %s, want %s; %+v", now, next, announced)
	}
	now, want, announced := s.offer("north")
	if now != "" || want == "" || announced[0].Wave != announced[0].LateWave {
		t.Errorf("a new cluster has %q, next %q, %+v", now, want, announced)
	}
}

func TestAbortedRollout(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	s.publish(nil)
	was, _, _ := s.offer("east")
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	s.step("fleet")
	s.states["east"] = v1alpha1.RolloutFailed
	if result := s.step("fleet"); result.Gate.Phase != v1alpha1.RolloutAborted || result.Gate.Reason != rollout.ReasonCanaryFailed {
		t.Fatalf("got %s, %s", result.Gate.Phase, result.Gate.Reason)
	}
	// Another bundle's change begins a plan that announces both: nobody has the failed one.
	s.publish(map[string]string{"bundles/b/cm.yaml": configMap("b", "2")})
	if now, _, announced := s.offer("east"); now != was || announced[0].Plan != 2 || len(announced[0].Bundles) != 2 {
		t.Errorf("east has %s, want %s; %+v", now, was, announced)
	}
}

func TestPeopleAndSteppers(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": strings.Replace(rolledOut, "    bake: 10m\n", "", 1)})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	do := func(act rollout.Act) error {
		_, err := gates.Do(t.Context(), "fleet", act, "ann", "because", s.options())
		return err
	}
	if err := do(rollout.Pause); err != nil {
		t.Fatal(err)
	}
	if result := s.step("fleet"); result.Written || result.Gate.Phase != v1alpha1.RolloutPaused {
		t.Errorf("a paused rollout is stepped: %+v", result.Gate)
	}
	if err := errors.Join(do(rollout.Resume), do(rollout.Abort)); err != nil {
		t.Fatal(err)
	}
	if err := do(rollout.Resume); !errors.Is(err, rollout.ErrNotNow) {
		t.Errorf("resume after abort: %v", err)
	}
	gate := s.step("fleet").Gate
	if len(gate.Events) < 3 || gate.Events[len(gate.Events)-1].By != "ann" || gate.Sequence != 3 {
		t.Errorf("got sequence %d and events %+v", gate.Sequence, gate.Events)
	}
	if _, err := gates.Step(t.Context(), "nothing", s.options()); !errors.Is(err, gates.ErrNoRollout) {
		t.Errorf("an unknown rollout: %v", err)
	}
}

// racing lets another stepper write while one does.
type racing struct {
	oci.Registry
	during func()
}

func (r *racing) Repository(name string) (oci.Repository, error) {
	repo, err := r.Registry.Repository(name)
	if r.during != nil && strings.HasPrefix(name, "rollouts/") {
		return &racingRepository{repo, r}, err
	}
	return repo, err
}

type racingRepository struct {
	oci.Repository
	to *racing
}

func (r *racingRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if during := r.to.during; during != nil {
		r.to.during = nil
		during()
	}
	return r.Repository.Push(ctx, desc, content, tags...)
}

func TestTwoSteppersAtOnce(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	slow := s.options()
	slow.Registry = &racing{Registry: s.registry, during: func() { s.step("fleet") }}
	if _, err := gates.Step(t.Context(), "fleet", slow); !errors.Is(err, gates.ErrConcurrent) {
		t.Errorf("the slower of two steppers: %v", err)
	}
	if gate := s.step("fleet").Gate; gate.Sequence != 1 {
		t.Errorf("got sequence %d, want 1", gate.Sequence)
	}
}

func TestApproval(t *testing.T) {
	ann, bob := releaseSigner(t), anotherSigner(t)
	keys := ""
	for i, key := range []*signing.Signer{ann, bob} {
		keys += fmt.Sprintf("          - name: key-%d\n            publicKey: |\n              %s\n", i,
			strings.ReplaceAll(strings.TrimSpace(string(key.PublicKey())), "\n", "\n              "))
	}
	s := newSite(t, map[string]string{"pinnace.yaml": strings.Replace(rolledOut, "    bake: 10m\n",
		"    approval:\n      signers:\n        threshold: 2\n        keys:\n"+keys, 1)})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	s.step("fleet")
	s.states["east"] = v1alpha1.RolloutDone
	if result := s.step("fleet"); result.Gate.Phase != v1alpha1.RolloutApproving {
		t.Fatalf("got %s", result.Gate.Phase)
	}
	opts := s.options()
	for i, signer := range []*signing.Signer{ann, ann, bob} {
		state, err := gates.Read(t.Context(), s.registry, opts.Verifier, "fleet")
		if err != nil {
			t.Fatal(err)
		}
		step, enough, err := gates.Approve(t.Context(), s.registry, signer, state, "")
		if err != nil || step != "rest" || enough != (i == 2) {
			t.Errorf("approval %d: step %s, enough %v, %v", i, step, enough, err)
		}
		if result := s.step("fleet"); (result.Gate.Step == 1) != (i == 2) {
			t.Errorf("approval %d: step %d", i, result.Gate.Step)
		}
	}
}

func TestRolloutFindings(t *testing.T) {
	s := newSite(t, map[string]string{
		"pinnace.yaml":           strings.Replace(rolledOut, "east", "nowhere", 1),
		"bundles/a/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\nspec:\n  rollout: {maxUnavailable: many}\n",
	})
	_, err := run(t, s.registry, s.opts)
	for _, want := range []string{"pinnace.yaml:9:", `cluster "nowhere" is not in the inventory`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	s = newSite(t, map[string]string{
		"pinnace.yaml":           rolledOut,
		"bundles/a/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\nspec:\n  rollout: {maxUnavailable: many}\n",
	})
	if _, err := run(t, s.registry, s.opts); err == nil || !strings.Contains(err.Error(), "neither a number nor a percentage") {
		t.Errorf("got %v", err)
	}
}

// A stepper that is killed between writing a gate and pointing at it: the next one goes on from there.
func TestStepperIsKilledInTheMiddle(t *testing.T) {
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	s.step("fleet")
	repo, err := s.registry.Repository(v1alpha1.RolloutRepository("fleet"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := repo.Resolve(t.Context(), v1alpha1.TagGate)
	if err != nil {
		t.Fatal(err)
	}
	s.states["east"] = v1alpha1.RolloutDone
	if second := s.step("fleet").Gate; second.Sequence != 2 || second.Phase != v1alpha1.RolloutBaking {
		t.Fatalf("got gate %d, %s", second.Sequence, second.Phase)
	}
	if err := repo.Tag(t.Context(), first, v1alpha1.TagGate); err != nil {
		t.Fatal(err)
	}
	if again := s.step("fleet"); again.Written || again.Gate.Sequence != 2 {
		t.Errorf("got gate %d, written: %v", again.Gate.Sequence, again.Written)
	}
	s.now = s.now.Add(11 * time.Minute)
	if next := s.step("fleet").Gate; next.Sequence != 3 || next.Step != 1 {
		t.Errorf("got gate %d in step %d", next.Sequence, next.Step)
	}
}
