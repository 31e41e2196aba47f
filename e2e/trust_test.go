package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// An agent that pinned the first version of a trust root and was off for five rotations, in which every key was replaced,
// catches up in order, from a mirror. What a revoked key signs is dead from its next look on.
func TestTrustRoot(t *testing.T) {
	ctx := t.Context()
	const name = "rooted"
	fleet := smallFleet(t, registry.Addr, name, map[string]string{"app": textOf("app", "0")})
	dir := filepath.Join(t.TempDir(), "trust")
	pinnace := func(args ...string) {
		t.Helper()
		if _, err := site.Pinnace(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	keys := func(i int) (root, release harness.Key) {
		t.Helper()
		root, err := site.NewKey(ctx, fmt.Sprint(name, "-root-", i))
		ok(t, err)
		release, err = site.NewKey(ctx, fmt.Sprint(name, "-release-", i))
		ok(t, err)
		return root, release
	}
	root, first := keys(1)
	fleet.Key = first
	pinnace("trust", "init", "--dir", dir, "--root-key", root.Public, "--threshold", "1", "--release-key", first.Public, "--bundle-key", first.Public)
	pinnace("trust", "sign", "--dir", dir, "--key", root.Private)
	pinnace("trust", "publish", "--dir", dir, "--registry", fleet.Prefix, "--plain-http")
	publish(t, fleet)

	policy := filepath.Join(filepath.Dir(dir), "trust.yaml")
	pinned, err := os.ReadFile(filepath.Join(dir, "1.root.json"))
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "pinned.json"), pinned, 0o600))
	ok(t, os.WriteFile(policy, []byte("apiVersion: pinnace.dev/v1alpha1\nkind: TrustPolicy\nspec:\n  root: {file: pinned.json, delegate: true}\n"), 0o600))
	mirrored := registry.Addr + "/mirror-of-" + fleet.Path()
	mirror := func() {
		t.Helper()
		pinnace("mirror", "sync", fleet.Prefix, mirrored, "--policy", policy, "--plain-http", "--to-plain-http", "--without-images")
	}
	mirror()

	cluster := newCluster(t, name)
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{
		Interval: 200 * time.Millisecond, Registry: &v1alpha1.Registry{Prefix: mirrored, PlainHTTP: true},
	})
	data, err := os.ReadFile(policy)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(filepath.Dir(agent.Config), "trust.yaml"), data, 0o600))
	ok(t, os.WriteFile(filepath.Join(filepath.Dir(agent.Config), "pinned.json"), pinned, 0o600))
	ok(t, agent.Start())
	t.Cleanup(agent.Kill)
	waitText(t, cluster, "app", "0")
	ok(t, agent.WaitLog(ctx, `msg="the trust root is in force" cluster=rooted stage=trust version=1`))
	ok(t, agent.Stop())

	for i := 2; i <= 6; i++ {
		nextRoot, nextRelease := keys(i)
		pinnace("trust", "rotate", "--dir", dir, "--root-key", nextRoot.Public, "--remove-root-key", root.Public,
			"--release-key", nextRelease.Public, "--bundle-key", nextRelease.Public)
		pinnace("trust", "sign", "--dir", dir, "--key", root.Private)
		pinnace("trust", "sign", "--dir", dir, "--key", nextRoot.Private)
		root, fleet.Key = nextRoot, nextRelease
	}
	pinnace("trust", "publish", "--dir", dir, "--registry", fleet.Prefix, "--plain-http")
	pinnace("sign", fleet.Prefix+"/fleet:current", "--key", fleet.Key.Private, "--plain-http")
	ok(t, fleet.Write("bundles/app/manifests.yaml", textOf("app", "6")))
	commit(t, fleet, "After five rotations")
	publish(t, fleet)
	mirror()

	said, err := agent.Log()
	ok(t, err)
	ok(t, agent.Start())
	waitText(t, cluster, "app", "6")
	log, err := agent.Log()
	ok(t, err)
	if !strings.Contains(log[len(said):], "stage=trust version=6") {
		t.Errorf("the agent doesn't say that version 6 is in force:\n%s", log[len(said):])
	}

	// The key of the first version signs something new, and the mirror brings it.
	target, _, err := fleet.Target(ctx, name)
	ok(t, err)
	target.Generation += 10
	thief := *fleet
	thief.Prefix = mirrored
	ok(t, thief.PushTarget(ctx, name, target, first))
	ok(t, agent.WaitLog(ctx, "reason=KeyNotTrusted", "(by the trust root, version 6)"))
	waitText(t, cluster, "app", "6")
}
