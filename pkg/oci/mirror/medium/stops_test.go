package medium_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// childVariable makes the test binary an import that can be killed.
const childVariable = "PINNACE_TEST_IMPORT"

// child is what an import in a process of its own needs.
type child struct {
	Dir, Prefix, Journal string
	Public               []byte
	Chunk                int
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := importAsChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func importAsChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	verifier, err := signing.NewKeyVerifier("release", c.Public)
	if err != nil {
		return err
	}
	ctx := context.Background()
	m, err := medium.Open(ctx, []string{c.Dir}, func(_ context.Context, payloadType string, envelope []byte) ([]byte, []string, error) {
		return verifier.OpenEnvelope("mirror", payloadType, envelope)
	})
	if err != nil {
		return err
	}
	to, err := oci.Open(c.Prefix, oci.Options{PlainHTTP: true})
	if err != nil {
		return err
	}
	journal, err := transfer.OpenJournal(c.Journal)
	if err != nil {
		return err
	}
	result, err := medium.Import(ctx, medium.ImportOptions{
		Medium: m, To: to, Verifier: verifier, Free: -1, Now: now, Journal: journal, Engine: transfer.New(transfer.Options{Journal: journal, Chunk: c.Chunk}),
	})
	if err == nil && !result.Complete() {
		err = result.Err
	}
	return err
}

// A process that is killed at random points, again and again, goes on; all the while an agent that polls sees nothing
// whose content is absent.
func TestKilledImports(t *testing.T) {
	w := newWorld(t, mirrortest.Fleet{Clusters: 1, Bundles: 4, BundleBytes: 100_000, Images: 3, Layers: 2, LayerBytes: 600_000})
	dir := w.export(t, nil, 0)
	site := newServer(t)
	stop := watch(t, w, site, "site-00")
	defer stop()
	text, err := json.Marshal(child{
		Dir: dir, Prefix: site.Prefix(), Journal: filepath.Join(t.TempDir(), "journal"), Public: w.signer.PublicKey(), Chunk: 128 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	kills := 0
	for try := 0; ; try++ {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childVariable+"="+string(text))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kills < 8 {
			// After a number of requests rather than a time: machines differ.
			until := site.Count(registrytest.Match{}) + 1 + random.IntN(60)
			if waitFor(t, func() bool { return site.Count(registrytest.Match{}) >= until || exited(cmd) }) {
				_ = cmd.Process.Kill() // it may have ended
				kills++
			}
		}
		if err := cmd.Wait(); err == nil {
			break
		} else if killed := (*exec.ExitError)(nil); !errors.As(err, &killed) || killed.Exited() {
			t.Fatalf("import: %v: %s", err, stderr.String())
		}
		if try > 50 {
			t.Fatal("it never ends")
		}
	}
	stop()
	w.check(t, site.Registry(t), "site-00")
	if kills < 3 {
		t.Errorf("killed %d times only", kills)
	}
}

func exited(cmd *exec.Cmd) bool { return cmd.ProcessState != nil }

// waitFor polls a condition, with a generous end.
func waitFor(t *testing.T, done func() bool) bool {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// watch polls a target as its agent does, and reads all that it needs, until it is stopped.
func watch(t *testing.T, w *world, server *registrytest.Server, cluster string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	registry := server.Registry(t)
	done := make(chan struct{})
	seen := 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			repo, err := registry.Repository(v1alpha1.TargetRepository(cluster))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := repo.Resolve(ctx, v1alpha1.TagCurrent); errors.Is(err, oci.ErrNotFound) || ctx.Err() != nil {
				continue
			}
			// A verifier of its own each time, which remembers nothing.
			verifier, err := signing.NewKeyVerifier("release", w.signer.PublicKey())
			if err == nil {
				err = checkCluster(ctx, registry, verifier, cluster)
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("an agent that polls sees: %v", err)
				return
			}
			seen++
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// An agent polls while a second import replaces what the first brought, over a link that breaks.
func TestAgentPollsDuringImport(t *testing.T) {
	w := newWorld(t, small)
	site := newServer(t)
	receipt := w.mustImport(t, site.Registry(t), w.export(t, nil, 0)).Receipt
	stop := watch(t, w, site, "site-00")
	defer stop()
	for revision := 1; revision <= 3; revision++ {
		w.fleet.Revision, w.fleet.Changed = revision, 6
		w.publish(t)
		dir := w.export(t, receipt, 0)
		for skip := range 4 {
			site.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindManifest}, Skip: 3 * skip, Times: 1, Status: http.StatusServiceUnavailable})
			site.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodPut, Kind: registrytest.KindUpload}, Skip: 2 * skip, Times: 1, Drop: true})
		}
		site.Reset()
		receipt = w.mustImport(t, site.Registry(t), dir).Receipt
		targetsMovedLast(t, site)
		site.Heal()
	}
	stop()
	w.check(t, site.Registry(t), "site-00")
}

// targetsMovedLast: what agents poll was written after everything else but the receipt. Polling alone rarely sees that
// something else moves a millisecond later.
func targetsMovedLast(t *testing.T, site *registrytest.Server) {
	t.Helper()
	moved := ""
	for _, write := range site.Requests(registrytest.Match{Method: http.MethodPut}) {
		switch name := strings.TrimPrefix(write.Repository, "fleet/"); {
		case strings.HasPrefix(name, "targets/") && write.Reference == v1alpha1.TagCurrent:
			moved = name
		case moved != "" && name != mirror.RepositoryReceipt:
			t.Errorf("%s %s was written after %s moved", name, write.Reference, moved)
		}
	}
	if moved == "" {
		t.Error("no target moved")
	}
}

// When a blob can't be brought, everything else is, and only what needs it is held back.
func TestOneFailureStopsOnlyWhatNeedsIt(t *testing.T) {
	w := newWorld(t, small)
	dir := w.export(t, nil, 0)
	site := newServer(t)
	site.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodPost, Repository: "fleet/bundles/bundle-000"}, Status: http.StatusForbidden})
	result, err := w.importTo(t, site.Registry(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	if result.Complete() || result.Receipt != nil {
		t.Error("the import says that it is complete")
	}
	// Cluster 0 has the even bundles, cluster 1 the odd ones.
	w.check(t, site.Registry(t), "site-01")
	repo, err := site.Registry(t).Repository(v1alpha1.TargetRepository("site-00"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the target that needs what failed: got %v, want %v", err, oci.ErrNotFound)
	}
	site.Heal()
	w.mustImport(t, site.Registry(t), dir)
	w.check(t, site.Registry(t), "site-00")
}
