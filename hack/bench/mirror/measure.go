package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type bench struct {
	program string
	dir     string
	fleet   mirrortest.Fleet
	servers []*server
	peak    int64 // bytes of memory

	centre  *server
	signer  *signing.Signer
	images  []digest.Digest
	receipt string
	site    *server // that took the full export
}

func (b *bench) close() error {
	var errs []error
	for _, s := range b.servers {
		errs = append(errs, s.stop())
	}
	return errors.Join(errs...)
}

// drop ends a registry and frees its disk.
func (b *bench) drop(s *server) error {
	for i, other := range b.servers {
		if other == s {
			b.servers = append(b.servers[:i], b.servers[i+1:]...)
			break
		}
	}
	return s.stop()
}

func (b *bench) key() string    { return filepath.Join(b.dir, "cosign.key") }
func (b *bench) public() string { return filepath.Join(b.dir, "cosign.pub") }

func (b *bench) prepare(ctx context.Context) error {
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(b.key(), private, 0o600), os.WriteFile(b.public(), public, 0o600)); err != nil {
		return err
	}
	if b.signer, err = signing.LoadSigner(private, nil); err != nil {
		return err
	}
	if b.centre, err = b.serve(ctx, "centre"); err != nil {
		return err
	}
	b.fleet.ImageHost, b.fleet.Now = b.centre.proxy.addr, time.Now()
	host, err := oci.OpenHost(b.fleet.ImageHost, oci.Options{PlainHTTP: true})
	if err != nil {
		return err
	}
	if b.images, err = b.fleet.PushImages(ctx, host, b.signer.Sign); err != nil {
		return err
	}
	return b.publish(ctx)
}

func (b *bench) publish(ctx context.Context) error {
	registry, err := b.centre.open()
	if err != nil {
		return err
	}
	return b.fleet.Publish(ctx, registry, b.images, b.signer.Sign)
}

// from are the flags that reach the centre.
func (b *bench) from() []string {
	return []string{"--plain-http", "--image-plain-http", b.fleet.ImageHost, "--public-key", b.public(), "-q"}
}

func (b *bench) plan(ctx context.Context) error {
	site, err := b.serve(ctx, "planned")
	if err != nil {
		return err
	}
	started := time.Now()
	out, err := b.pinnace(ctx, append([]string{"mirror", "plan", b.centre.prefix(), site.prefix(), "--to-plain-http", "-o", "json"}, b.from()...)...)
	if err != nil {
		return err
	}
	figures.Report("plan_seconds", time.Since(started).Seconds(), "s")
	var planned struct{ Bytes int64 }
	if err := json.Unmarshal(out, &planned); err != nil {
		return err
	}
	note("the closure has %d MiB", planned.Bytes/mib)
	return b.drop(site)
}

func (b *bench) sync(ctx context.Context, to *server) (time.Duration, error) {
	started := time.Now()
	_, err := b.pinnace(ctx, append([]string{"mirror", "sync", b.centre.prefix(), to.prefix(), "--to-plain-http", "-o", "name"}, b.from()...)...)
	return time.Since(started), err
}

// compare copies the closure by a loop over oras-go, as oras cp in a script does, and by pinnace mirror sync.
func (b *bench) compare(ctx context.Context, delay time.Duration, name string) error {
	if b.site != nil {
		if err := b.drop(b.site); err != nil {
			return err
		}
	}
	b.centre.proxy.delay.Store(0)
	plain, err := b.serve(ctx, "oras")
	if err != nil {
		return err
	}
	for _, s := range []*server{b.centre, plain} {
		s.proxy.delay.Store(int64(delay))
	}
	started := time.Now()
	if err := b.orasLoop(ctx, plain); err != nil {
		return err
	}
	loop := time.Since(started)
	if err := b.drop(plain); err != nil {
		return err
	}
	if b.site, err = b.serve(ctx, "site-"+name); err != nil {
		return err
	}
	b.site.proxy.delay.Store(int64(delay))
	ours, err := b.sync(ctx, b.site)
	if err != nil {
		return err
	}
	b.centre.proxy.delay.Store(0)
	b.site.proxy.delay.Store(0)
	note("%s: the loop took %.1f s, sync %.1f s", name, loop.Seconds(), ours.Seconds())
	figures.Report(name, loop.Seconds()/ours.Seconds(), "×")
	return nil
}

// noop syncs what is there already.
func (b *bench) noop(ctx context.Context) error {
	b.centre.proxy.reset()
	b.site.proxy.reset()
	if _, err := b.sync(ctx, b.site); err != nil {
		return err
	}
	most, asked := 0, 0
	for _, s := range []*server{b.centre, b.site} {
		requests, repositories := s.proxy.most()
		most, asked = max(most, requests), asked+repositories
	}
	note("%d requests to the sender, %d to the receiver, of %d repositories", b.centre.proxy.requests.Load(), b.site.proxy.requests.Load(), asked)
	figures.Report("noop_requests_per_repository", float64(most), "requests")
	return nil
}

func (b *bench) export(ctx context.Context, dir string, more ...string) error {
	args := append([]string{"mirror", "export", b.centre.prefix(), dir, "--key", b.key(), "-o", "name"}, b.from()...)
	_, err := b.pinnace(ctx, append(args, more...)...)
	return err
}

func (b *bench) importArgs(dir string, to *server, receipt string) []string {
	return []string{"mirror", "import", dir, "--to", to.prefix(), "--plain-http", "--public-key", b.public(), "--receipt", receipt, "-q", "-o", "json"}
}

// media exports everything, kills the import in its middle, and measures how long the next one takes to go on: from its
// start to the first byte that it sends.
func (b *bench) media(ctx context.Context) error {
	if b.site != nil {
		if err := b.drop(b.site); err != nil {
			return err
		}
	}
	dir := filepath.Join(b.dir, "full")
	if err := b.export(ctx, dir, "--volume-size", "700MB"); err != nil {
		return err
	}
	var err error
	if b.site, err = b.serve(ctx, "site"); err != nil {
		return err
	}
	b.receipt = filepath.Join(b.dir, "receipt.json")
	exported, err := bytesIn(dir)
	if err != nil {
		return err
	}
	cmd := b.command(ctx, b.importArgs(dir, b.site, b.receipt)...)
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := waitFor(ctx, func() bool { return b.site.proxy.sent.Load() > exported/3 }); err != nil {
		return err
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = cmd.Wait() // it was killed
	before := b.site.proxy.sent.Load()
	started := time.Now()
	cmd = b.command(ctx, b.importArgs(dir, b.site, b.receipt)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	err = waitFor(ctx, func() bool { return b.site.proxy.sent.Load() > before })
	figures.Report("import_restart_seconds", time.Since(started).Seconds(), "s")
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	b.account(cmd)
	return os.RemoveAll(dir)
}

func waitFor(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// delta exports one changed bundle to a site that has the rest, and compares with the size of what changed.
func (b *bench) delta(ctx context.Context) error {
	b.fleet.Revision, b.fleet.Changed = 1, 1
	if err := b.publish(ctx); err != nil {
		return err
	}
	out, err := b.pinnace(ctx, append([]string{"mirror", "plan", b.centre.prefix(), b.site.prefix(), "--to-plain-http", "-o", "json"}, b.from()...)...)
	if err != nil {
		return err
	}
	var planned struct{ Bytes int64 }
	if err := json.Unmarshal(out, &planned); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "delta")
	if err := b.export(ctx, dir, "--have", b.receipt); err != nil {
		return err
	}
	written, err := bytesIn(dir)
	if err != nil {
		return err
	}
	note("%d bytes changed, the export has %d", planned.Bytes, written)
	figures.Report("delta_overhead_percent", 100*float64(written-planned.Bytes)/float64(planned.Bytes), "%")
	_, err = b.pinnace(ctx, b.importArgs(dir, b.site, b.receipt)...)
	return err
}

// bytesIn is the size of the files in a folder.
func bytesIn(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	var n int64
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return n, err
		}
		n += info.Size()
	}
	return n, err
}

// kills and cuts are how often an import is stopped in each way.
const (
	kills = 12
	cuts  = 12
	chunk = transfer.DefaultChunk
)

// stops imports one cluster's content, one transfer at a time, while the process is killed and connections are cut at
// random points, and counts at the proxy what is sent again after each.
func (b *bench) stops(ctx context.Context) error {
	dir := filepath.Join(b.dir, "again")
	if err := b.export(ctx, dir, "--cluster", mirrortest.Cluster(0)); err != nil {
		return err
	}
	site, err := b.serve(ctx, "stopped")
	if err != nil {
		return err
	}
	args := append(b.importArgs(dir, site, filepath.Join(b.dir, "stopped.json")), "--jobs", "1")
	random := rand.New(rand.NewPCG(1, 2))
	worst, seen := int64(0), int64(0)
	observe := func() {
		resent := site.proxy.resent.Load()
		worst, seen = max(worst, resent-seen), resent
	}
	for range kills {
		until := site.proxy.sent.Load() + 1 + random.Int64N(24*mib)
		cmd := b.command(ctx, args...)
		if err := cmd.Start(); err != nil {
			return err
		}
		err := waitFor(ctx, func() bool { return site.proxy.sent.Load() >= until })
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait() // it was killed
		if err != nil {
			return err
		}
		observe()
	}
	cmd := b.command(ctx, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for range cuts {
		site.proxy.cutAfter.Store(1 + random.Int64N(24*mib))
		if err := waitFor(ctx, func() bool { return site.proxy.cutAfter.Load() == 0 }); err != nil {
			return err
		}
		until := site.proxy.sent.Load() + chunk
		if err := waitFor(ctx, func() bool { return site.proxy.sent.Load() >= until }); err != nil {
			return err
		}
		observe()
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	observe()
	note("%d kills and %d cuts: %d KiB sent again in all, at most %d KiB after one", kills, cuts, seen>>10, worst>>10)
	figures.Report("resent_chunks_max", float64((worst+chunk-1)/chunk), "chunks")
	return nil
}

// repositoryOf takes the repository out of a path of the registry's API.
func repositoryOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(path, kind); i >= 0 {
			return path[:i]
		}
	}
	return path
}
