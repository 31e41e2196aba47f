package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

const (
	fleetName   = "acme"
	clusterName = "factory-07"
)

// key is a signer with the verifier that trusts it. Scrypt is slow, so each is made once.
type key struct {
	signer   *signing.Signer
	verifier *signing.Verifier
}

var releaseKey, foreignKey = sync.OnceValue(newKey), sync.OnceValue(newKey)

func newKey() key {
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	signer, err := signing.LoadSigner(private, nil)
	if err != nil {
		panic(err)
	}
	verifier, err := signing.NewKeyVerifier("release", public)
	if err != nil {
		panic(err)
	}
	return key{signer, verifier}
}

// verifier is what the command wires: refusals in the agent's words.
type verifier struct{ *signing.Verifier }

func (v verifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	verified, err := v.Verifier.Verify(ctx, repo, name, desc)
	if refusal := (*signing.Error)(nil); errors.As(err, &refusal) {
		return verified, &agent.Error{Stage: agent.StageVerify, Reason: agent.Reason(refusal.Reason), Err: err}
	}
	return verified, err
}

// world is a registry and an agent's machine.
type world struct {
	t        testing.TB
	registry *registry
	dir      string
	cluster  *cluster
	deployer *deployer
	holder   *holder
	log      *bytes.Buffer
}

func newWorld(t testing.TB) *world {
	return &world{
		t: t, registry: &registry{Registry: oci.NewMemory()}, dir: t.TempDir(), cluster: &cluster{},
		deployer: newDeployer(), holder: &holder{}, log: &bytes.Buffer{},
	}
}

// agent opens the state folder and returns an agent on it; close gives the folder back.
func (w *world) agent(change ...func(*agent.Config)) (a *agent.Agent, closeState func()) {
	w.t.Helper()
	state, err := agent.OpenState(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	content, err := oci.OpenLayout(state.ContentDir())
	if err != nil {
		w.t.Fatal(err)
	}
	config := agent.Config{
		Fleet: fleetName, Cluster: clusterName, Registries: []oci.Registry{w.registry}, State: state, Content: content,
		Verifier:  verifier{releaseKey().verifier},
		Deployers: map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: w.deployer, v1alpha1.MethodRelease: w.deployer},
		Holder:    w.holder, Objects: w.cluster, Version: "test",
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, one := range change {
		one(&config)
	}
	return agent.New(config), func() {
		if err := state.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// sync runs one pass of a new agent, as after a restart.
func (w *world) sync(change ...func(*agent.Config)) agent.Result {
	w.t.Helper()
	a, closeState := w.agent(change...)
	defer closeState()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	result, err := a.Sync(ctx)
	if err != nil {
		w.t.Fatalf("Sync: %v\n%s", err, w.log)
	}
	return result
}

// bundle pushes a signed bundle with one ConfigMap per text, and returns it as a target names it.
func (w *world) bundle(name string, texts ...string) v1alpha1.TargetBundle {
	w.t.Helper()
	return w.bundleOf(name, releaseKey().signer, map[string][]byte{"manifests/all.yaml": []byte(configMaps(name, texts...))})
}

func configMaps(name string, texts ...string) string {
	var out bytes.Buffer
	for i, text := range texts {
		fmt.Fprintf(&out, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-%d}\ndata: {text: %q}\n", name, i, text)
	}
	return out.String()
}

func (w *world) bundleOf(name string, signer *signing.Signer, files map[string][]byte) v1alpha1.TargetBundle {
	w.t.Helper()
	layer, err := archive.Pack("", files, archive.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	source := v1alpha1.SourceIdentity{Name: "platform"}
	config, err := json.Marshal(v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
		Name:     name, Method: v1alpha1.MethodApply, Source: source,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	artifact := oci.Artifact{
		Type:   v1alpha1.ArtifactTypeBundle,
		Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: config},
		Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeBundleContent, Data: layer}},
	}
	repository := v1alpha1.BundleRepository(name)
	desc := w.push(repository, artifact, signer)
	return v1alpha1.TargetBundle{
		Name: name, Repository: repository, Digest: desc.Digest.String(), LayerDigest: artifact.Layers[0].Descriptor().Digest.String(),
		Method: v1alpha1.MethodApply, Namespace: "apps", Source: source,
	}
}

// releaseOf pushes a bundle that is installed as a release.
func (w *world) releaseOf(name string) v1alpha1.TargetBundle {
	w.t.Helper()
	source := v1alpha1.SourceIdentity{Name: "platform"}
	config, err := json.Marshal(v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
		Name:     name, Method: v1alpha1.MethodRelease, Source: source,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	layer := oci.Blob{MediaType: v1alpha1.MediaTypeHelmChart, Data: []byte("a chart")}
	repository := v1alpha1.BundleRepository(name)
	desc := w.push(repository, oci.Artifact{
		Type: v1alpha1.ArtifactTypeBundle, Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: config}, Layers: []oci.Blob{layer},
	}, releaseKey().signer)
	return v1alpha1.TargetBundle{
		Name: name, Repository: repository, Digest: desc.Digest.String(), LayerDigest: layer.Descriptor().Digest.String(),
		Method: v1alpha1.MethodRelease, Namespace: "apps", Source: source, Release: &v1alpha1.TargetRelease{Name: name},
	}
}

func (w *world) push(repository string, artifact oci.Artifact, signer *signing.Signer, tags ...string) ocispec.Descriptor {
	w.t.Helper()
	repo, err := w.registry.Registry.Repository(repository)
	if err != nil {
		w.t.Fatal(err)
	}
	desc, _, err := oci.Push(w.t.Context(), repo, artifact, tags...)
	if err != nil {
		w.t.Fatal(err)
	}
	if signer != nil {
		if _, err := signer.Sign(w.t.Context(), repo, desc); err != nil {
			w.t.Fatal(err)
		}
	}
	return desc
}

// target returns a fresh target of that generation.
func target(generation int64, bundles ...v1alpha1.TargetBundle) v1alpha1.Target {
	now := time.Now()
	return v1alpha1.Target{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget},
		Fleet:    fleetName, Cluster: clusterName, Generation: generation,
		IssuedAt: metav1.NewTime(now.Add(-time.Minute)), ExpiresAt: metav1.NewTime(now.Add(time.Hour)), Bundles: bundles,
	}
}

// publish pushes a signed target as the current one.
func (w *world) publish(target v1alpha1.Target) ocispec.Descriptor {
	w.t.Helper()
	return w.publishAs(target, releaseKey().signer)
}

func (w *world) publishAs(target v1alpha1.Target, signer *signing.Signer) ocispec.Descriptor {
	w.t.Helper()
	document, err := json.Marshal(target)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.publishDocument(document, signer)
}

func (w *world) publishDocument(document []byte, signer *signing.Signer) ocispec.Descriptor {
	w.t.Helper()
	artifact := oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: document}},
	}
	return w.push(v1alpha1.TargetRepository(clusterName), artifact, signer, v1alpha1.TagCurrent)
}

// artifactOf reads a target that was pushed before.
func (w *world) artifactOf(desc ocispec.Descriptor) oci.Artifact {
	w.t.Helper()
	repo, err := w.registry.Registry.Repository(v1alpha1.TargetRepository(clusterName))
	if err != nil {
		w.t.Fatal(err)
	}
	manifest, _, err := oci.ReadManifest(w.t.Context(), repo, desc)
	if err != nil {
		w.t.Fatal(err)
	}
	document, err := oci.ReadAll(w.t.Context(), repo, manifest.Layers[0], 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	return oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: document}},
	}
}

// registry counts requests and breaks on demand.
type registry struct {
	oci.Registry
	mu       sync.Mutex
	down     error
	delay    time.Duration // an answer is that long on its way
	requests []string
}

func (r *registry) set(down error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *registry) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.requests
	r.requests = nil
	return taken
}

func (r *registry) Repository(name string) (oci.Repository, error) {
	repo, err := r.Registry.Repository(name)
	return &repository{Repository: repo, registry: r, name: name}, err
}

type repository struct {
	oci.Repository
	registry *registry
	name     string
}

func (r *repository) note(verb, what string) error {
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	r.registry.requests = append(r.registry.requests, verb+" "+r.name+" "+what)
	return r.registry.down
}

func (r *repository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if err := r.note("HEAD", reference); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := r.Repository.Resolve(ctx, reference)
	r.registry.mu.Lock()
	delay := r.registry.delay
	r.registry.mu.Unlock()
	time.Sleep(delay)
	return desc, err
}

func (r *repository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if err := r.note("PUT", desc.Digest.String()); err != nil {
		return err
	}
	return r.Repository.Push(ctx, desc, content, tags...)
}

// deployer is a cluster in memory.
type deployer struct {
	mu      sync.Mutex
	running map[string]v1alpha1.TargetBundle
	calls   []string
	fail    map[string]error
	unready map[string]bool
	applied []*unstructured.Unstructured // what releases consist of
	slow    time.Duration                // an apply takes that long
	broken  map[string]bool              // digests that never become ready
	deaf    map[string]bool              // digests that are ready without the watch telling so
	checks  int                          // rechecks
	// failDigest are digests that cannot be applied.
	failDigest map[string]error
	texts      map[string][]string
	// namespaces: inventories list the bundle's namespace, as a real one's do.
	namespaces bool
}

func newDeployer() *deployer {
	return &deployer{
		running: map[string]v1alpha1.TargetBundle{}, fail: map[string]error{}, unready: map[string]bool{}, broken: map[string]bool{}, deaf: map[string]bool{}, texts: map[string][]string{},
	}
}

func (d *deployer) text(bundle string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.texts[bundle]
}

func (d *deployer) runs(bundle string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running[bundle].Digest
}

func (d *deployer) Deploy(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	name := deployment.Bundle.Name
	var inventory apply.Inventory
	var texts []string
	if deployment.Chart != nil {
		inventory = append(inventory, apply.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: deployment.Bundle.Namespace, Name: name + "-0"})
	}
	for _, object := range deployment.Objects {
		ref := apply.RefOf(object)
		ref.Namespace = deployment.Bundle.Namespace
		inventory = append(inventory, ref)
		data, _ := object.Object["data"].(map[string]any)
		texts = append(texts, fmt.Sprint(data["text"]))
	}
	if d.namespaces {
		inventory = append(inventory, apply.Ref{APIVersion: "v1", Kind: "Namespace", Name: deployment.Bundle.Namespace})
	}
	if err := deployment.Record(inventory); err != nil {
		return apply.Result{Inventory: deployment.Previous}, err
	}
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	time.Sleep(slow) // the bubble's clock
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "deploy "+name)
	if err := errors.Join(d.fail[name], d.failDigest[deployment.Bundle.Digest]); err != nil {
		return apply.Result{Inventory: inventory}, err
	}
	d.running[name], d.texts[name] = deployment.Bundle, texts
	return apply.Result{Inventory: inventory}, nil
}

func (d *deployer) Remove(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "remove "+deployment.Bundle.Name)
	if err := d.fail[deployment.Bundle.Name]; err != nil {
		return apply.Result{Inventory: deployment.Previous}, err
	}
	delete(d.running, deployment.Bundle.Name)
	return apply.Result{}, nil
}

func (d *deployer) Health(_ context.Context, deployment agent.Deployment) (apply.Health, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	health := apply.Health{Total: len(deployment.Previous), Ready: len(deployment.Previous)}
	if deployment.Recheck {
		d.checks++
	}
	if d.unready[deployment.Bundle.Name] || d.broken[deployment.Bundle.Digest] || d.deaf[deployment.Bundle.Digest] && !deployment.Recheck {
		health.Ready = 0
		health.Problems = []v1alpha1.Problem{{Object: "v1 ConfigMap apps/x", Reason: "InProgress", Message: "not yet"}}
	}
	return health, nil
}

func (d *deployer) Applied(_ context.Context, deployment agent.Deployment) (apply.Bundle, error) {
	objects := deployment.Objects
	if deployment.Chart != nil {
		objects = d.applied
	}
	return apply.Bundle{Name: deployment.Bundle.Name, Namespace: deployment.Bundle.Namespace, Objects: objects}, nil
}

// took returns the calls since the last time.
func (d *deployer) took() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func (d *deployer) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// holder is the cluster's Lease.
type holder struct {
	mu       sync.Mutex
	known    agent.Known
	err      error
	refuses  error // of what is to be remembered
	released bool
	awaited  int
}

func (h *holder) Acquire(context.Context) (agent.Known, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known, h.err
}

func (h *holder) Keep(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (h *holder) Await(ctx context.Context, longest time.Duration) {
	h.mu.Lock()
	h.awaited++
	h.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(longest):
	}
}

func (h *holder) Remember(_ context.Context, known agent.Known) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuses == nil {
		h.known = known
	}
	return h.refuses
}

func (h *holder) Release(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	return nil
}

// cluster keeps the BundleDeployments that it is given.
type cluster struct {
	mu     sync.Mutex
	shown  []v1alpha1.BundleDeployment
	writes int
}

func (c *cluster) Prepare(context.Context) error { return nil }

func (c *cluster) Write(_ context.Context, deployments []v1alpha1.BundleDeployment) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = slices.Clone(deployments)
	c.writes++
	return nil
}

func (c *cluster) now() []v1alpha1.BundleDeployment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown
}

func (c *cluster) written() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// states returns name=state of a report, sorted by name.
func states(report v1alpha1.StatusReport) []string {
	var out []string
	for _, bundle := range report.Bundles {
		out = append(out, bundle.Name+"="+string(bundle.State))
	}
	return out
}
