// Package hostile attacks an agent. [Attacks] is a table of what a hostile registry, mirror, medium or insider may try;
// each entry is run against the real sync code, with a real registry over HTTP that lies by a script, real signatures
// and a cluster in memory. [Attack.Run] says whether the attack was refused for the expected reason, and proves that
// nothing was applied and nothing lost: what ran keeps running, also after a restart without any registry, and an honest
// target is taken afterwards.
package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

const (
	fleetName   = "acme"
	clusterName = "factory-07"
	prefix      = "fleet"
	// generation is the honest target's that is in force when the attack begins.
	generation = 5
	// stall is how long a body may keep the agent waiting: long enough for a busy machine.
	stall = 2 * time.Second
	// patience bounds one sync: no attack may keep an agent busy for longer.
	patience = 60 * time.Second
)

// keys sign for everybody in the table: making them is slow.
type keys struct {
	release, bundle, stranger *signing.Signer
	policy                    v1alpha1.TrustPolicy
}

var sharedKeys = sync.OnceValues(func() (*keys, error) {
	k := &keys{}
	for _, into := range []**signing.Signer{&k.release, &k.bundle, &k.stranger} {
		private, _, err := signing.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if *into, err = signing.LoadSigner(private, nil); err != nil {
			return nil, err
		}
	}
	key := func(name string, signer *signing.Signer) []v1alpha1.PublicKey {
		return []v1alpha1.PublicKey{{Name: name, PublicKey: string(signer.PublicKey())}}
	}
	k.policy.Spec.Rules = []v1alpha1.TrustRule{
		{Match: "targets/**", Signers: v1alpha1.Signers{Keys: key("release", k.release)}},
		{Match: "bundles/**", Signers: v1alpha1.Signers{Keys: key("bundle", k.bundle)}},
		{Match: "bundles/two-*", Signers: v1alpha1.Signers{Threshold: 2, Keys: append(key("bundle", k.bundle), key("release", k.release)...)}},
	}
	return k, nil
})

// World is a registry that can be told to lie, and an agent's machine. Its methods panic with an error on what is no
// part of the attack; [Attack.Run] returns it.
type World struct {
	*keys
	ctx context.Context //nolint:containedctx // of the one Run that owns it
	// Lies are told by the registry.
	Lies *registrytest.Proxy
	// First is the honest target in force.
	First v1alpha1.Target

	store   oci.Registry // the honest registry, to push to
	address string
	dir     string
	cluster *cluster
	close   []func()
	change  func(*agent.Config)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func newWorld(ctx context.Context) (w *World, err error) {
	defer caught(&err)
	w = &World{keys: must(sharedKeys()), ctx: ctx, cluster: newCluster()}
	defer func() {
		if err != nil {
			w.end()
		}
	}()
	w.dir = must(os.MkdirTemp("", "hostile-"))
	w.close = append(w.close, func() { _ = os.RemoveAll(w.dir) })
	handler := must(registry.New(registry.Options{}))
	w.close = append(w.close, func() { _ = handler.Close() })
	w.Lies = registrytest.NewProxy(handler)
	w.address = w.serve(w.Lies)
	w.store = must(oci.Open(w.serve(handler)+"/"+prefix, oci.Options{PlainHTTP: true}))

	w.First = w.target(generation, w.bundle("shop", "honest"), w.bundle("web", "honest"))
	w.publish(w.First)
	if result := must(w.sync(nil)); result.Problem != nil {
		return w, fmt.Errorf("the honest target was refused: %w", result.Problem)
	}
	return w, nil
}

// serve listens on loopback until the end.
func (w *World) serve(handler http.Handler) string {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until Close
	}()
	w.close = append(w.close, func() { _ = server.Close(); <-done })
	return listener.Addr().String()
}

func (w *World) end() {
	for i := len(w.close) - 1; i >= 0; i-- {
		w.close[i]()
	}
}

// caught turns a panic of must into the error.
func caught(err *error) {
	switch value := recover().(type) {
	case nil:
	case error:
		*err = errors.Join(*err, value)
	default:
		panic(value)
	}
}

// sync runs one pass of a new agent, as after a restart. registries are the lying one when nil.
func (w *World) sync(registries []oci.Registry) (agent.Result, error) {
	if registries == nil {
		registries = []oci.Registry{must(oci.Open(w.address+"/"+prefix, oci.Options{PlainHTTP: true, Stall: stall, DockerConfig: w.credentials()}))}
	}
	state, err := agent.OpenState(filepath.Join(w.dir, "state"))
	if err != nil {
		return agent.Result{}, err
	}
	defer func() { _ = state.Close() }()
	config := agent.Config{
		Fleet: fleetName, Cluster: clusterName, Registries: registries, State: state,
		Content:   must(oci.OpenLayout(state.ContentDir())),
		Verifier:  verifier{must(signing.NewVerifier(w.policy, signing.Options{}))},
		Deployers: map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: w.cluster, v1alpha1.MethodRelease: w.cluster},
		Holder:    w.cluster, Version: "test",
		ClusterKind: func(kind schema.GroupVersionKind) bool { return kind.Kind == "ClusterRole" || kind.Kind == "Namespace" },
	}
	if w.change != nil {
		w.change(&config)
	}
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return agent.New(config).Sync(ctx)
}

// credentials are the agent's for the registry, which an attack may want.
func (w *World) credentials() string {
	file := filepath.Join(w.dir, "config.json")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":"YWdlbnQ6c2VjcmV0"}}}`, w.address) // agent:secret
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return file
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

func (w *World) repo(name string) oci.Repository { return must(w.store.Repository(name)) }

// push stores an artifact and signs it, by nobody when there is no signer.
func (w *World) push(repository string, artifact oci.Artifact, signers []*signing.Signer, tags ...string) ocispec.Descriptor {
	desc, _, err := oci.Push(w.ctx, w.repo(repository), artifact, tags...)
	if err != nil {
		panic(err)
	}
	for _, signer := range signers {
		must(signer.Sign(w.ctx, w.repo(repository), desc))
	}
	return desc
}

func by(signers ...*signing.Signer) []*signing.Signer { return signers }

func configMap(name, text string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {text: %q}\n", name, text)
}

// bundle pushes an honest bundle.
func (w *World) bundle(name, text string) v1alpha1.TargetBundle {
	return w.bundleOf(name, by(w.keys.bundle), map[string][]byte{"all.yaml": []byte(configMap(name, text))})
}

func (w *World) bundleOf(name string, signers []*signing.Signer, files map[string][]byte) v1alpha1.TargetBundle {
	return w.bundleLayer(name, signers, must(archive.Pack("", files, archive.Limits{})), nil)
}

// bundleLayer pushes a bundle with any bytes as its layer; change may spoil the rest.
func (w *World) bundleLayer(name string, signers []*signing.Signer, layer []byte, change func(*v1alpha1.BundleConfig, *oci.Artifact)) v1alpha1.TargetBundle {
	config := v1alpha1.BundleConfig{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
		Name:     name, Method: v1alpha1.MethodApply, Source: v1alpha1.SourceIdentity{Name: "platform"},
	}
	artifact := oci.Artifact{
		Type: v1alpha1.ArtifactTypeBundle, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeBundleContent, Data: layer}},
	}
	if change != nil {
		change(&config, &artifact)
	}
	if artifact.Config.MediaType == "" {
		artifact.Config = oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: must(json.Marshal(config))}
	}
	desc := w.push(v1alpha1.BundleRepository(name), artifact, signers)
	return v1alpha1.TargetBundle{
		Name: name, Repository: v1alpha1.BundleRepository(name), Digest: desc.Digest.String(),
		LayerDigest: artifact.Layers[0].Descriptor().Digest.String(), Method: v1alpha1.MethodApply, Namespace: "apps",
		Source: v1alpha1.SourceIdentity{Name: "platform"},
	}
}

func (w *World) target(generation int64, bundles ...v1alpha1.TargetBundle) v1alpha1.Target {
	now := time.Now()
	return v1alpha1.Target{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget},
		Fleet:    fleetName, Cluster: clusterName, Generation: generation,
		IssuedAt: metav1.NewTime(now.Add(-time.Minute)), ExpiresAt: metav1.NewTime(now.Add(time.Hour)), Bundles: bundles,
	}
}

// next is the honest target's successor, in which web is another bundle.
func (w *World) next(web v1alpha1.TargetBundle) v1alpha1.Target {
	return w.target(generation+1, w.First.Bundles[0], web)
}

// publish pushes and signs a target as the current one.
func (w *World) publish(target v1alpha1.Target) {
	w.publishDocument(must(json.Marshal(target)), by(w.release))
}

func (w *World) publishDocument(document []byte, signers []*signing.Signer) ocispec.Descriptor {
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: document}}}
	return w.push(v1alpha1.TargetRepository(clusterName), artifact, signers, v1alpha1.TagCurrent)
}

// lie has the registry answer requests that match as it is told.
func (w *World) lie(kind registrytest.Kind, repository, reference string, answer func(rw http.ResponseWriter, r *http.Request, honest http.Handler)) {
	w.Lies.Inject(registrytest.Fault{Match: registrytest.Match{Kind: kind, Repository: repository, Reference: reference}, Lie: answer})
}

// loseGeneration makes the disk forget which generation was accepted, as when the state folder was lost; the cluster
// remembers.
func (w *World) loseGeneration() {
	state := must(agent.OpenState(filepath.Join(w.dir, "state")))
	defer func() { _ = state.Close() }()
	if err := state.Remember(agent.Remembered{}); err != nil {
		panic(err)
	}
}
