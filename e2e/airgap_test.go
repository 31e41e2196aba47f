package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// A ship whose registry can only be read gets its software on a medium, then a delta; what its agent reports stays on
// the disk, goes back on a medium, and the centre's status shows it.
func TestAirGap(t *testing.T) {
	ctx := t.Context()
	const name = "ship-7"
	cluster := newCluster(t, "airgap")
	fleet := newFleet(t, registry.Addr)
	key, err := site.NewKey(ctx, "status-of-airgap")
	ok(t, err)
	ok(t, fleet.AddStatusKey(name, key))
	ok(t, fleet.Write("bundles/cargo/pinnace.yaml", fmt.Sprintf(operated, "cargo", "")))
	ok(t, fleet.Write("bundles/cargo/list.yaml", cargo("salt")))
	commit(t, fleet, "What the ship carries")
	publish(t, fleet)

	// The ship's folder is filled from a medium, and served for reading only.
	dir := t.TempDir()
	receipt := filepath.Join(dir, "receipt.json")
	ship, err := site.NewRegistry(ctx, "airgap-registry", "--read-only")
	ok(t, err)
	media := 0
	carry := func(args ...string) {
		t.Helper()
		media++
		medium := filepath.Join(dir, fmt.Sprint("medium-", media))
		_, err := site.Pinnace(ctx, append([]string{
			"mirror", "export", fleet.Prefix, medium, "--plain-http", "--cluster", name, "--without-images", "--key", fleet.Key.Private,
		}, args...)...)
		ok(t, err)
		_, err = site.Pinnace(ctx, "mirror", "import", medium, "--root", ship.Root, "--prefix", fleet.Path(), "--public-key", fleet.Key.Public, "--receipt", receipt)
		ok(t, err)
	}
	carry("--volume-size", "200kB")

	agent := newAgent(t, fleet, cluster, harness.AgentOptions{
		Name: name, StatusKey: key, Registry: &v1alpha1.Registry{Prefix: ship.Addr + "/" + fleet.Path(), PlainHTTP: true},
	})
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, append(harness.ExampleBundles[name], "cargo")...))

	// The way back. The report on the disk is replaced until everything is ready.
	back := func() {
		t.Helper()
		ok(t, harness.Until(ctx, "the ship's report at the centre", func(ctx context.Context) error {
			media++
			medium := filepath.Join(dir, fmt.Sprint("medium-", media))
			if _, err := site.Pinnace(ctx, "mirror", "export", agent.StateDir, medium, "--status", "--stream", name, "--key", key.Private); err != nil {
				return err
			}
			if _, err := site.Pinnace(ctx, "mirror", "import", medium, "--to", fleet.Prefix, "--plain-http", "--public-key", key.Public); err != nil {
				return err
			}
			// It is ready when the report is of the target that the centre published last.
			out, err := fleet.Status(ctx, name)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}))
	}
	back()

	ok(t, fleet.Write("bundles/cargo/list.yaml", cargo("pepper")))
	commit(t, fleet, "Another cargo")
	publish(t, fleet)
	carry("--have", receipt)
	ok(t, harness.Until(ctx, "the other cargo", func(ctx context.Context) error {
		var list corev1.ConfigMap
		if err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: "cargo", Name: "list"}, &list); err != nil || list.Data["hold"] == "pepper" {
			return err
		}
		return fmt.Errorf("the hold carries %s", list.Data["hold"])
	}))
	back()
}

func cargo(what string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: list}\ndata: {hold: " + what + "}\n"
}
