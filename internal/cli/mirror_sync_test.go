package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/adrg/xdg"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// A watching sync brings each publication soon after it was made, goes on after the receiver refused something, and ends
// when it is interrupted.
func TestMirrorWatches(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	xdg.Reload()
	centre, site := registrytest.New(t), registrytest.New(t)
	signer, err := signingtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(public, signer.PublicKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	fleet := mirrortest.Fleet{Clusters: 1, Bundles: 1, BundleBytes: 100, Now: time.Now()}
	publish := func(revision int) {
		t.Helper()
		fleet.Revision, fleet.Changed = revision, 1
		if err := fleet.Publish(t.Context(), centre.Registry(t), nil, signer.Sign); err != nil {
			t.Fatal(err)
		}
	}
	publish(0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, Program{Out: &out, Err: &out}, []string{
			"mirror", "sync", centre.Prefix(), site.Prefix(), "--plain-http", "--to-plain-http", "--public-key", public,
			"--watch", "--interval", "20ms",
		})
	}()
	arrives(t, centre, site)
	site.Inject(registrytest.Fault{Match: registrytest.Match{Method: "POST"}, Times: 1, Status: 403})
	for revision := 1; revision <= 2; revision++ {
		publish(revision)
		arrives(t, centre, site)
	}
	cancel()
	if got := <-code; got != exitcode.Interrupted {
		t.Errorf("it ended with %d, want %d: %s", got, exitcode.Interrupted, out.String())
	}
}

// arrives waits until the site has the centre's current target.
func arrives(t *testing.T, centre, site *registrytest.Server) {
	t.Helper()
	current := func(server *registrytest.Server) string {
		repo, err := server.Registry(t).Repository(v1alpha1.TargetRepository(mirrortest.Cluster(0)))
		if err != nil {
			t.Fatal(err)
		}
		desc, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent)
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			t.Fatal(err)
		}
		return desc.Digest.String()
	}
	want := current(centre)
	deadline := time.Now().Add(30 * time.Second)
	for current(site) != want {
		if time.Now().After(deadline) {
			t.Fatalf("the site doesn't get %s", want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
