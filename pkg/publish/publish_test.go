package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
)

// Keys are slow to make: two are enough for all tests.
var releaseKey, otherKey = sync.OnceValues(makeKey), sync.OnceValues(makeKey)

func makeKey() (*signing.Signer, error) {
	private, _, err := signing.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return signing.LoadSigner(private, nil)
}

// releaseSigner is whoever publishes, anotherSigner somebody else.
func releaseSigner(t *testing.T) *signing.Signer { return load(t, releaseKey) }

func anotherSigner(t *testing.T) *signing.Signer { return load(t, otherKey) }

func load(t *testing.T, key func() (*signing.Signer, error)) *signing.Signer {
	t.Helper()
	signer, err := key()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

const fleetFile = `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  registry: 127.0.0.1:1/acme
  inventory: [clusters]
  sources: [{name: apps, paths: ["bundles/*"], targets: [{}]}]
`

// write lays a fleet repository: three bundles of one ConfigMap each for two clusters.
func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	all := map[string]string{
		"pinnace.yaml":      fleetFile,
		"clusters/all.yaml": cluster("east") + "---\n" + cluster("west"),
		"bundles/a/cm.yaml": configMap("a", "1"),
		"bundles/b/cm.yaml": configMap("b", "1"),
		"bundles/c/cm.yaml": configMap("c", "1"),
	}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		path := filepath.Join(dir, name)
		if content == "" {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func cluster(name string) string {
	return fmt.Sprintf("apiVersion: pinnace.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s, labels: {side: %[1]s}}\n", name)
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {value: %q}\n", name, value)
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func options(t *testing.T, dir string, signer *signing.Signer) Options {
	t.Helper()
	return Options{
		LoadOptions: LoadOptions{Fleet: dir, CacheDir: t.TempDir()}, Signer: signer, Jobs: 2,
		Now: func() time.Time { return start },
	}
}

func run(t *testing.T, registry oci.Registry, opts Options) (Result, error) {
	t.Helper()
	return publishFrom(t.Context(), &lastPublish{opts: opts, registry: registry}, opts)
}

func mustRun(t *testing.T, registry oci.Registry, opts Options) Result {
	t.Helper()
	result, err := run(t, registry, opts)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func actions(result Result) map[string]target.Action {
	out := map[string]target.Action{}
	for _, bundle := range result.Bundles {
		out["bundle/"+bundle.Name] = bundle.Action
	}
	for _, t := range result.Targets {
		out[fmt.Sprintf("target/%s/%d", t.Cluster, t.Generation)] = t.Action
	}
	return out
}

// seen is what an agent with the policy gets: its target, or an error.
func seen(t *testing.T, registry oci.Registry, signer *signing.Signer, cluster string) (v1alpha1.Target, error) {
	t.Helper()
	verifier, err := signing.NewKeyVerifier("key", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(name, reference string) (oci.Repository, oci.Verified, error) {
		repo, err := registry.Repository(name)
		if err != nil {
			return nil, oci.Verified{}, err
		}
		desc, err := repo.Resolve(t.Context(), reference)
		if err != nil {
			return nil, oci.Verified{}, err
		}
		verified, err := verifier.Verify(t.Context(), repo, name, desc)
		return repo, verified, err
	}
	repo, verified, err := fetch(v1alpha1.TargetRepository(cluster), v1alpha1.TagCurrent)
	if err != nil {
		return v1alpha1.Target{}, err
	}
	got, err := oci.FetchTarget(t.Context(), repo, verified)
	if err != nil {
		return got, err
	}
	for _, named := range got.Bundles {
		repo, verified, err := fetch(named.Repository, named.Digest)
		if err != nil {
			return got, err
		}
		bundle, err := oci.FetchBundle(t.Context(), repo, verified)
		if err != nil {
			return got, err
		}
		if _, err := bundle.Content(t.Context()); err != nil {
			return got, err
		}
	}
	return got, nil
}

func TestPublish(t *testing.T) {
	signer, registry := releaseSigner(t), &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)

	want := map[string]target.Action{
		"bundle/a": target.Created, "bundle/b": target.Created, "bundle/c": target.Created,
		"target/east/1": target.Created, "target/west/1": target.Created,
	}
	if diff := cmp.Diff(want, actions(mustRun(t, registry, opts))); diff != "" {
		t.Errorf("first publish (-want +got):\n%s", diff)
	}
	for _, cluster := range []string{"east", "west"} {
		if got, err := seen(t, registry, signer, cluster); err != nil || len(got.Bundles) != 3 {
			t.Errorf("%s gets %d bundles, %v", cluster, len(got.Bundles), err)
		}
	}

	writes := registry.writes.Load()
	opts.Now = func() time.Time { return start.Add(time.Hour) }
	again := mustRun(t, registry, opts)
	if again.Changed() || registry.writes.Load() != writes {
		t.Errorf("the same input wrote %d times: %v", registry.writes.Load()-writes, actions(again))
	}

	write(t, dir, map[string]string{
		"bundles/b/cm.yaml":      configMap("b", "2"),
		"bundles/b/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec: {overrides: [{when: {clusterName: west}, skip: true}]}\n",
	})
	want = map[string]target.Action{
		"bundle/a": target.Unchanged, "bundle/b": target.Changed, "bundle/c": target.Unchanged,
		"target/east/2": target.Changed, "target/west/2": target.Changed,
	}
	if diff := cmp.Diff(want, actions(mustRun(t, registry, opts))); diff != "" {
		t.Errorf("after a change (-want +got):\n%s", diff)
	}
	if got, err := seen(t, registry, signer, "west"); err != nil || len(got.Bundles) != 2 || got.Generation != 2 {
		t.Errorf("west gets %d bundles of generation %d, %v", len(got.Bundles), got.Generation, err)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	registry := &counting{Registry: oci.NewMemory()}
	opts := options(t, write(t, t.TempDir(), nil), releaseSigner(t))
	opts.DryRun = true
	if result := mustRun(t, registry, opts); !result.Changed() || registry.writes.Load() != 0 {
		t.Errorf("wrote %d times; changed: %v", registry.writes.Load(), result.Changed())
	}
}

func TestTargetsAreRenewedBeforeTheyExpire(t *testing.T) {
	signer, registry := releaseSigner(t), oci.NewMemory()
	opts := options(t, write(t, t.TempDir(), nil), signer)
	mustRun(t, registry, opts)
	opts.Now = func() time.Time { return start.Add(target.DefaultValidity/2 + time.Hour) }
	got := actions(mustRun(t, registry, opts))
	if got["target/east/2"] != target.Renewed {
		t.Errorf("got %v, want east renewed as generation 2", got)
	}
}

func TestRefusesToRemoveTooMuch(t *testing.T) {
	signer, registry := releaseSigner(t), &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)
	mustRun(t, registry, opts)
	writes := registry.writes.Load()

	write(t, dir, map[string]string{"bundles/a/cm.yaml": "", "bundles/b/cm.yaml": ""})
	_, err := run(t, registry, opts)
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Targets) != 2 || registry.writes.Load() != writes {
		t.Fatalf("got %v after %d writes, want both clusters refused and no write", err, registry.writes.Load()-writes)
	}
	if !strings.Contains(err.Error(), "--allow-prune") {
		t.Errorf("%q doesn't say what to do", err)
	}

	opts.AllowPrune = true
	mustRun(t, registry, opts)
	if got, err := seen(t, registry, signer, "east"); err != nil || len(got.Bundles) != 1 || !got.AllowPrune {
		t.Errorf("got %d bundles, allowPrune %v, %v", len(got.Bundles), got.AllowPrune, err)
	}
}

func TestRestrictedSourceStaysInItsNamespaces(t *testing.T) {
	registry := &counting{Registry: oci.NewMemory()}
	dir := write(t, t.TempDir(), map[string]string{
		"bundles/a/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nspec: {namespace: team-a}\n",
		"bundles/a/cm.yaml":      strings.Replace(configMap("a", "1"), "{name: a}", "{name: a, namespace: kube-system}", 1),
	})
	fleet, err := os.ReadFile(filepath.Join(dir, FleetFile))
	if err != nil {
		t.Fatal(err)
	}
	limited := strings.Replace(string(fleet), `["bundles/*"], targets`, `["bundles/a"], restrict: {namespaces: [team-*]}, targets`, 1)
	if err := os.WriteFile(filepath.Join(dir, FleetFile), []byte(limited), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = run(t, registry, options(t, dir, releaseSigner(t)))
	if err == nil || !strings.Contains(err.Error(), `ConfigMap a: namespace "kube-system" is not allowed for source "apps"`) || registry.writes.Load() != 0 {
		t.Errorf("got %v after %d writes", err, registry.writes.Load())
	}
}

func TestAClusterThatComesBackGoesOn(t *testing.T) {
	signer, registry := releaseSigner(t), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)
	mustRun(t, registry, opts)
	write(t, dir, map[string]string{"clusters/all.yaml": cluster("east")})
	mustRun(t, registry, opts)
	write(t, dir, nil)
	got := actions(mustRun(t, registry, opts))
	if got["target/west/2"] == "" {
		t.Errorf("got %v, want west to go on with generation 2", got)
	}
}

// A target that is damaged behind its tag must not start the count of generations again.
func TestDamagedTargetIsNoNewCluster(t *testing.T) {
	signer, registry := releaseSigner(t), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	opts := options(t, dir, signer)
	mustRun(t, registry, opts)
	write(t, dir, map[string]string{"clusters/all.yaml": cluster("east")})
	mustRun(t, registry, opts)
	repo, err := registry.Repository(v1alpha1.TargetRepository("west"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, nil)
	broken := &withoutBlobs{Registry: registry, manifest: desc.Digest}
	if result, err := run(t, broken, opts); !errors.Is(err, oci.ErrNotFound) || !strings.Contains(err.Error(), "west") {
		t.Errorf("got %v and %v, want an error that names the cluster", err, actions(result))
	}
}

// withoutBlobs resolves a manifest and then has lost it.
type withoutBlobs struct {
	oci.Registry
	manifest digest.Digest
}

func (w *withoutBlobs) Repository(name string) (oci.Repository, error) {
	repo, err := w.Registry.Repository(name)
	return &withoutBlob{repo, w.manifest}, err
}

type withoutBlob struct {
	oci.Repository
	manifest digest.Digest
}

func (r *withoutBlob) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest == r.manifest {
		return nil, oci.ErrNotFound
	}
	return r.Repository.Fetch(ctx, desc)
}

func TestOtherKeyAndOtherFleetAreRefused(t *testing.T) {
	signer, registry := releaseSigner(t), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	mustRun(t, registry, options(t, dir, signer))

	_, err := run(t, registry, options(t, dir, anotherSigner(t)))
	var refusal *signing.Error
	if !errors.As(err, &refusal) {
		t.Errorf("another key: got %v", err)
	}
	fleet, err := os.ReadFile(filepath.Join(dir, FleetFile))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{FleetFile: strings.ReplaceAll(string(fleet), "acme}", "other}")})
	if _, err := run(t, registry, options(t, dir, signer)); err == nil || !strings.Contains(err.Error(), `holds the fleet "acme"`) {
		t.Errorf("another fleet: got %v", err)
	}
}

// A publish that dies after any number of writes leaves what agents see whole, and running again finishes it.
func TestKilledAnywhere(t *testing.T) {
	synctest.Test(t, killedAnywhere) // what a publisher that died claimed is waited for
}

func killedAnywhere(t *testing.T) {
	signer := releaseSigner(t)
	dir := write(t, t.TempDir(), nil)
	changed := write(t, t.TempDir(), map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	for limit := int64(0); ; limit++ {
		registry := &counting{Registry: oci.NewMemory()}
		mustRun(t, registry, options(t, dir, signer))
		registry.limit.Store(registry.writes.Load() + limit)
		registry.limited.Store(true)
		opts := options(t, changed, signer)
		opts.Now = func() time.Time { return start.Add(time.Minute) }
		_, err := run(t, registry, opts)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		for _, cluster := range []string{"east", "west"} {
			if got, err := seen(t, registry, signer, cluster); err != nil || len(got.Bundles) != 3 {
				t.Fatalf("killed after %d writes: %s gets %d bundles, %v", limit, cluster, len(got.Bundles), err)
			}
		}
		if err == nil {
			if limit < 10 {
				t.Fatalf("only %d writes: nothing was tried", limit)
			}
			return
		}
		registry.limited.Store(false)
		before := map[string]v1alpha1.Target{}
		for _, cluster := range []string{"east", "west"} {
			before[cluster], _ = seen(t, registry, signer, cluster)
		}
		opts.Now = func() time.Time { return start.Add(time.Hour) }
		mustRun(t, registry, opts)
		for _, cluster := range []string{"east", "west"} {
			got, err := seen(t, registry, signer, cluster)
			if err != nil || got.Generation != 2 {
				t.Fatalf("killed after %d writes and run again: %s has generation %d, %v", limit, cluster, got.Generation, err)
			}
			// Agents refuse two contents under one generation.
			if before[cluster].Generation == 2 && !cmp.Equal(before[cluster], got) {
				t.Fatalf("killed after %d writes and run again: %s saw two targets of generation 2", limit, cluster)
			}
		}
	}
}

var errKilled = errors.New("killed")

// counting counts writes, and refuses them past a limit.
type counting struct {
	oci.Registry
	writes, limit atomic.Int64
	limited       atomic.Bool
}

func (c *counting) Repository(name string) (oci.Repository, error) {
	repo, err := c.Registry.Repository(name)
	return &countingRepository{repo, c}, err
}

type countingRepository struct {
	oci.Repository
	counting *counting
}

func (r *countingRepository) write() error {
	if r.counting.limited.Load() && r.counting.writes.Load() >= r.counting.limit.Load() {
		return errKilled
	}
	r.counting.writes.Add(1)
	return nil
}

func (r *countingRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if err := r.write(); err != nil {
		return err
	}
	return r.Repository.Push(ctx, desc, content, tags...)
}

func (r *countingRepository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	if err := r.write(); err != nil {
		return err
	}
	return r.Repository.Tag(ctx, desc, tag)
}
