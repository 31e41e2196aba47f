package e2e

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"pinnace.dev/pinnace/e2e/harness"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// The same input pushes nothing, and a commit that changes nothing of a bundle neither.
func TestUnchangedPublishPushesNothing(t *testing.T) {
	counted, err := registry.Count(t.Context())
	ok(t, err)
	defer func() { _ = counted.Close() }()
	fleet := newFleet(t, counted.Addr)
	first := publish(t, fleet)
	if got, want := len(first.Changed()), len(harness.ExampleBundles); got != want {
		t.Errorf("targets that changed: got %d, want %d", got, want)
	}
	wantNoWrites := func(what string) {
		t.Helper()
		for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
			if requests := counted.Requests(registrytest.Match{Method: method}); len(requests) > 0 {
				t.Errorf("%s: %d %s requests, the first is %+v", what, len(requests), method, requests[0])
			}
		}
	}
	counted.Reset()
	again := publish(t, fleet)
	wantNoWrites("the same again")
	if len(again.Changed()) != 0 || again.Publication != first.Publication {
		t.Errorf("the same again: got publication %d with %v changed, want %d and none", again.Publication, again.Changed(), first.Publication)
	}
	ok(t, fleet.Write("README.md", "about the fleet\n"))
	commit(t, fleet, "A README")
	counted.Reset()
	if third := publish(t, fleet); len(third.Changed()) != 0 {
		t.Errorf("another commit without a change: %v changed", third.Changed())
	}
	wantNoWrites("another commit without a change")
}

// The same source gives the same bundles, in whatever registry and from whatever commit and machine.
func TestDigestsDependOnContentOnly(t *testing.T) {
	fleet := newFleet(t, registry.Addr)
	digests := func(prefix string) []string {
		cache := t.TempDir()
		var all []string
		for _, bundle := range publish(t, fleet, "--registry", prefix, "--cache-dir", cache).Bundles {
			all = append(all, bundle.Name+" "+bundle.Digest)
		}
		slices.Sort(all)
		return all
	}
	first := digests(fleet.Prefix + "-a")
	ok(t, fleet.Write("README.md", "about the fleet\n"))
	commit(t, fleet, "A README")
	if diff := cmp.Diff(first, digests(fleet.Prefix+"-b")); diff != "" {
		t.Errorf("digests (-first +second):\n%s", diff)
	}
}

// Credentials come from Docker's configuration; wrong and missing ones are told apart from other failures.
func TestPrivateRegistry(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("pass"), bcrypt.MinCost)
	ok(t, err)
	users := filepath.Join(t.TempDir(), "users")
	ok(t, os.WriteFile(users, []byte("ci:"+string(hash)+"\n"), 0o600))
	private, err := site.NewRegistry(t.Context(), "private", "--htpasswd", users)
	ok(t, err)
	defer func() { ok(t, private.Stop()) }()
	fleet := newFleet(t, private.Addr)
	config := func(login string) string {
		file := filepath.Join(t.TempDir(), "config.json")
		auth := base64.StdEncoding.EncodeToString([]byte(login))
		ok(t, os.WriteFile(file, []byte(`{"auths":{"`+private.Addr+`":{"auth":"`+auth+`"}}}`), 0o600))
		return file
	}
	_, err = fleet.Publish(t.Context())
	wantExit(t, err, 4, private.Addr, "log in")
	_, err = fleet.Publish(t.Context(), "--registry-config", config("ci:guess"))
	wantExit(t, err, 4, private.Addr)
	publish(t, fleet, "--registry-config", config("ci:pass"))
}

// Bad input: one clear line, the right exit code, nothing published.
func TestRefusedPublishes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*harness.Fleet) error
		args   []string
		code   int
		texts  []string
	}{
		{
			name: "misspelt field",
			change: func(f *harness.Fleet) error {
				return f.Replace("bundles/sensors/pinnace.yaml", "namespace:", "namepsace:")
			},
			code: 2, texts: []string{"bundles/sensors/pinnace.yaml:8:", "namepsace", `did you mean "namespace"`},
		},
		{
			name: "cluster twice",
			change: func(f *harness.Fleet) error {
				return f.Replace("clusters/ship-7.yaml", "name: ship-7", "name: store-42")
			},
			code: 2, texts: []string{"store-42", "clusters/"},
		},
		{
			name:   "missing value",
			change: func(f *harness.Fleet) error { return f.Replace("clusters/ship-7.yaml", `id: "7", `, "") },
			code:   2, texts: []string{"ship-7", "id"},
		},
		{
			name: "no fleet at all",
			change: func(f *harness.Fleet) error {
				return f.Remove("pinnace.yaml")
			},
			code: 5, texts: []string{"pinnace.yaml", "pinnace init"},
		},
		{
			name: "registry away", args: []string{"--registry", "127.0.0.1:1/fleet"},
			code: 9, texts: []string{"127.0.0.1:1"},
		},
		{
			name: "Git away", args: []string{"--fleet", "http://127.0.0.1:1/fleet.git"},
			code: 9, texts: []string{"127.0.0.1:1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fleet := newFleet(t, registry.Addr)
			if tt.change != nil {
				ok(t, tt.change(fleet))
				commit(t, fleet, tt.name)
			}
			_, err := fleet.Publish(t.Context(), tt.args...)
			wantExit(t, err, tt.code, tt.texts...)
			for cluster := range harness.ExampleBundles {
				if _, _, err := fleet.Target(t.Context(), cluster); err == nil {
					t.Errorf("%s has a target", cluster)
				}
			}
		})
	}
}

// A publish that would take most of a cluster away is refused without --allow-prune.
func TestPublishGuardsAgainstRemoval(t *testing.T) {
	fleet := newFleet(t, registry.Addr)
	publish(t, fleet)
	before, desc, err := fleet.Target(t.Context(), "ship-7")
	ok(t, err)
	for _, bundle := range []string{"clock", "sensors", "telemetry"} {
		ok(t, fleet.Remove("bundles/"+bundle))
	}
	commit(t, fleet, "Less")
	_, err = fleet.Publish(t.Context())
	wantExit(t, err, 6, "--allow-prune")
	if _, now, err := fleet.Target(t.Context(), "ship-7"); err != nil || now.Digest != desc.Digest {
		t.Errorf("the target changed all the same (%v)", err)
	}
	publish(t, fleet, "--allow-prune")
	after, _, err := fleet.Target(t.Context(), "ship-7")
	ok(t, err)
	if len(after.Bundles) != 1 || after.Generation <= before.Generation {
		t.Errorf("got %d bundles in generation %d, want 1 in a later one than %d", len(after.Bundles), after.Generation, before.Generation)
	}
}
