package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// stoppedChunk is the size of a chunk, as the flag says it and in bytes.
const (
	stoppedChunk     = "64KiB"
	stoppedChunkSize = 64 << 10
)

// stoppedWorld is a fleet whose layers have several chunks.
type stoppedWorld struct {
	centre   *registrytest.Server
	reads    *stopper // before the centre
	keys     string   // folder
	verifier *signing.Verifier
	entries  []*mirror.Entry
	bytes    int64
	random   *rand.Rand
}

func newStoppedWorld(t *testing.T, seed uint64) *stoppedWorld {
	t.Helper()
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &stoppedWorld{keys: t.TempDir(), random: rand.New(rand.NewPCG(seed, 0))}
	for name, data := range map[string][]byte{"cosign.key": private, "cosign.pub": public} {
		if err := os.WriteFile(filepath.Join(w.keys, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := signing.LoadSigner(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.verifier, err = signing.NewKeyVerifier("release", public); err != nil {
		t.Fatal(err)
	}
	w.reads, w.centre = newStopper(t)
	fleet := mirrortest.Fleet{
		Clusters: 1, Bundles: 4, BundleBytes: 100_000, Images: 3, ImageHost: w.centre.Addr, Layers: 1, LayerBytes: 300_000, Now: time.Now(),
	}
	host, err := oci.OpenHost(w.centre.Addr, oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	images, err := fleet.PushImages(t.Context(), host, signer.Sign)
	if err == nil {
		err = fleet.Publish(t.Context(), w.centre.Registry(t), images, signer.Sign)
	}
	if err != nil {
		t.Fatal(err)
	}
	closure := w.closure(t)
	w.entries = closure.Entries
	for _, entry := range closure.Entries {
		w.bytes += entry.Bytes()
	}
	return w
}

func (w *stoppedWorld) openImages(host string) (oci.Registry, error) {
	return oci.OpenHost(host, oci.Options{PlainHTTP: true})
}

func (w *stoppedWorld) closure(t *testing.T) *mirror.Closure {
	t.Helper()
	from := mirror.From{Registry: w.centre.Registry(t), Host: w.openImages, Verifier: w.verifier}
	closure, err := mirror.Find(t.Context(), from, mirror.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	return closure
}

func (w *stoppedWorld) from() []string {
	return []string{"--plain-http", "--image-plain-http", w.centre.Addr}
}

func (w *stoppedWorld) command(ctx context.Context, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, "pinnace", args...)
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+dir, "XDG_STATE_HOME="+dir, "XDG_CACHE_HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// mustRun runs a command to its end.
func (w *stoppedWorld) mustRun(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd, stderr := w.command(t.Context(), dir, args...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("pinnace %v: %v: %s", args, err, stderr)
	}
}

// run runs a command until it ends, or the stop comes and it is killed.
func (w *stoppedWorld) run(t *testing.T, dir string, stopper *stopper, after int64, args ...string) (killed bool) {
	t.Helper()
	held := stopper.arm(after)
	defer stopper.release()
	cmd, stderr := w.command(t.Context(), dir, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case client := <-held:
		taken(t, client)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Fatal("it was killed, and says that it is done")
		}
		return true
	case err := <-ended:
		if err != nil {
			t.Fatalf("pinnace %v: %v: %s", args, err, stderr)
		}
		return false
	}
}

// stopped runs a command again and again, killing it at random points of its bytes, as often as stops says: each time the
// next one goes on, and at most one chunk is sent again. When it has ended, and was checked, another one is begun.
func (w *stoppedWorld) stopped(t *testing.T, stops int, begin func() stoppedRun) {
	t.Helper()
	made, most := 0, int64(0)
	for made < stops {
		run := begin()
		for again := true; again; {
			after := int64(0)
			if made < stops {
				after = 1 + w.random.Int64N(2*w.bytes/int64(stops))
			}
			again = w.run(t, run.dir, run.stopper, after, run.args...)
			if again {
				made++
			}
			resent := run.stopper.resent()
			if most = max(most, resent); resent > stoppedChunkSize+readAhead {
				t.Errorf("after %d stops, %d bytes were sent again, want at most a chunk of %d", made, resent, stoppedChunkSize)
			}
		}
		lost := run.stopper.lost()
		if most = max(most, lost); lost > stoppedChunkSize {
			t.Errorf("an upload of %d bytes was begun anew, want at most a chunk of %d", lost, stoppedChunkSize)
		}
		run.check()
	}
	t.Logf("%d stops, at most %d bytes sent again after one", made, most)
}

// stoppedRun is a command with its own receiver.
type stoppedRun struct {
	dir     string // of its state
	stopper *stopper
	args    []string
	check   func()
}

// check compares what a site has with what the centre has, byte by byte.
func (w *stoppedWorld) check(t *testing.T, site oci.Registry) {
	t.Helper()
	open := mirror.Opener(w.centre.Registry(t), w.openImages)
	for _, entry := range w.entries {
		from, err := open(entry)
		if err != nil {
			t.Fatal(err)
		}
		to, err := site.Repository(entry.Repository)
		if err != nil {
			t.Fatal(err)
		}
		content := []ocispec.Descriptor{entry.Descriptor()}
		for _, blob := range entry.Blobs {
			content = append(content, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: blob.Digest, Size: blob.Size})
		}
		for _, desc := range content {
			want, err := oci.ReadAll(t.Context(), from, desc, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := oci.ReadAll(t.Context(), to, desc, 1<<20); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s %s: %d bytes (%v), want %d", entry.Repository, desc.Digest, len(got), err, len(want))
			}
		}
		for _, tag := range append(entry.Tags[:len(entry.Tags):len(entry.Tags)], entry.Moving...) {
			if got, err := to.Resolve(t.Context(), tag); err != nil || got.Digest != entry.Digest {
				t.Errorf("%s:%s is %s (%v), want %s", entry.Repository, tag, got.Digest, err, entry.Digest)
			}
		}
	}
}

// The program is killed at a hundred points, seeded and spread over the bytes that it moves, while it syncs, exports and
// imports. Each time it goes on when it is started again, at most one chunk is sent again, and what arrives is the same,
// byte by byte.
func TestMirrorIsKilledAtAHundredPoints(t *testing.T) {
	t.Run("sync", func(t *testing.T) {
		t.Parallel()
		w := newStoppedWorld(t, 1)
		w.stopped(t, 34, func() stoppedRun {
			stopper, site := newStopper(t)
			args := append([]string{
				"mirror", "sync", w.centre.Prefix(), site.Prefix(), "--to-plain-http", "--jobs", "1", "--chunk-size", stoppedChunk, "--public-key", w.public(),
			}, w.from()...)
			return stoppedRun{dir: t.TempDir(), stopper: stopper, args: args, check: func() { w.check(t, site.Registry(t)) }}
		})
	})
	t.Run("export", func(t *testing.T) {
		t.Parallel()
		w := newStoppedWorld(t, 2)
		want := t.TempDir()
		export := func(dir string) []string {
			return append([]string{
				"mirror", "export", w.centre.Prefix(), dir, "--volume-size", "2MB", "--jobs", "1", "--chunk-size", stoppedChunk, "--key", w.private(),
			}, w.from()...)
		}
		w.mustRun(t, t.TempDir(), export(want)...)
		w.stopped(t, 33, func() stoppedRun {
			w.reads.forget()
			dir := t.TempDir()
			return stoppedRun{dir: t.TempDir(), stopper: w.reads, args: export(dir), check: func() {
				w.mustRun(t, t.TempDir(), "mirror", "verify", dir, "--public-key", w.public())
				sameVolumes(t, dir, want)
			}}
		})
	})
	t.Run("import", func(t *testing.T) {
		t.Parallel()
		w := newStoppedWorld(t, 3)
		medium := t.TempDir()
		w.mustRun(t, t.TempDir(), append([]string{
			"mirror", "export", w.centre.Prefix(), medium, "--volume-size", "2MB", "--key", w.private(),
		}, w.from()...)...)
		w.stopped(t, 33, func() stoppedRun {
			stopper, site := newStopper(t)
			return stoppedRun{dir: t.TempDir(), stopper: stopper, args: []string{
				"mirror", "import", medium, "--to", site.Prefix(), "--plain-http", "--jobs", "1", "--chunk-size", stoppedChunk, "--public-key", w.public(),
			}, check: func() { w.check(t, site.Registry(t)) }}
		})
	})
}

func (w *stoppedWorld) private() string { return filepath.Join(w.keys, "cosign.key") }
func (w *stoppedWorld) public() string  { return filepath.Join(w.keys, "cosign.pub") }

// sameVolumes compares two exports, byte by byte.
func sameVolumes(t *testing.T, got, want string) {
	t.Helper()
	for i := 1; ; i++ {
		name := fmt.Sprintf("volume-%04d.tar", i)
		wanted, err := os.ReadFile(filepath.Join(want, name))
		if errors.Is(err, os.ErrNotExist) && i > 1 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(got, name)); err != nil || !bytes.Equal(data, wanted) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}
