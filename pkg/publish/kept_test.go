package publish

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

// team is a Git repository with the bundle shop, which is a source beside the fleet's own.
type team struct {
	t      *testing.T
	server *githttp.Server
	fleet  string
	files  map[string]string
	stop   func()
}

func newTeam(t *testing.T) *team {
	t.Helper()
	server, err := githttp.Start(t.TempDir(), githttp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { _ = server.Close() })
	t.Cleanup(stop)
	if err := server.Create(t.Context(), "team"); err != nil {
		t.Fatal(err)
	}
	out := &team{t: t, server: server, stop: stop, files: map[string]string{}}
	out.push(map[string]string{"shop/cm.yaml": configMap("shop", "1")})
	out.fleet = t.TempDir()
	out.write(map[string]string{"pinnace.yaml": out.describe("")})
	return out
}

// write changes the fleet repository; what was written before stays.
func (s *team) write(files map[string]string) {
	s.t.Helper()
	maps.Copy(s.files, files)
	write(s.t, s.fleet, s.files)
}

// describe returns the fleet's file; more stands in the team's source.
func (s *team) describe(more string) string {
	return `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  registry: 127.0.0.1:1/acme
  inventory: [clusters]
  sources:
    - {name: apps, paths: ["bundles/*"], targets: [{}]}
    - name: team
      git: {url: "` + s.server.Repository("team") + `"` + more + `}
      paths: ["*"]
      targets: [{}]
`
}

func (s *team) push(files map[string]string) {
	s.t.Helper()
	dir := s.t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.server.Commit(s.t.Context(), "team", "main", dir, "change"); err != nil {
		s.t.Fatal(err)
	}
}

func digestsOf(t *testing.T, registry oci.Registry, cluster string) map[string]string {
	t.Helper()
	got, err := seen(t, registry, releaseSigner(t), cluster)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, bundle := range got.Bundles {
		out[bundle.Name] = bundle.Digest
	}
	return out
}

// Whatever is wrong with one source, its clusters keep what they have of it, and the others go on.
func TestSourceThatFailsIsKept(t *testing.T) {
	tests := []struct {
		name string
		// coldCache forgets the checkouts, as another machine would have none.
		coldCache bool
		fail      func(s *team)
		want      string
	}{
		{"unreachable", false, func(s *team) { s.stop() }, "unreachable"},
		{"unreachable, no checkout left", true, func(s *team) { s.stop() }, "unreachable"},
		{"no such branch", true, func(s *team) {
			s.write(map[string]string{"pinnace.yaml": s.describe(", ref: {branch: gone}")})
		}, `no branch "gone"`},
		{"a document that cannot be read", false, func(s *team) {
			s.push(map[string]string{"shop/pinnace.yaml": "kind: [\n", "shop/cm.yaml": configMap("shop", "2")})
		}, "shop/pinnace.yaml"},
		{"a document that cannot be read, no checkout left", true, func(s *team) {
			s.push(map[string]string{"shop/pinnace.yaml": "kind: [\n", "shop/cm.yaml": configMap("shop", "2")})
		}, "shop/pinnace.yaml"},
		{"a manifest that cannot be built", true, func(s *team) {
			s.push(map[string]string{"shop/cm.yaml": "kind: ConfigMap\n"})
		}, "no apiVersion"},
		{"a restriction that its last commit breaks too", false, func(s *team) {
			fleet := strings.Replace(s.describe(""), "      targets:", "      restrict: {namespaces: [team-*]}\n      targets:", 1)
			s.write(map[string]string{"pinnace.yaml": fleet})
		}, "kube-system"},
		{"a signature is required now", true, func(s *team) {
			key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHZcVHbWbTs5+Jh0aTFpTQ4kA0Z3oyAOjsqRHDHyNVqE"
			s.write(map[string]string{"pinnace.yaml": s.describe(", verify: {keys: [{name: ops, publicKey: " + key + "}]}")})
		}, "is not signed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, registry := newTeam(t), oci.NewMemory()
			s.push(map[string]string{
				"shop/cm.yaml":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop, namespace: kube-system}\n",
				"shop/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\nspec: {namespace: team-a}\n",
			})
			opts := options(t, s.fleet, releaseSigner(t))
			mustRun(t, registry, opts)
			before := digestsOf(t, registry, "east")
			if before["shop"] == "" || before["a"] == "" {
				t.Fatalf("got %v", before)
			}

			if test.coldCache {
				opts.CacheDir = t.TempDir()
			}
			test.fail(s)
			s.write(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
			result := mustRun(t, registry, opts)
			failed := result.Failed()
			if len(failed) != 1 || failed[0].Name != "team" || !strings.Contains(failed[0].Failed, test.want) || failed[0].Commit == "" {
				t.Errorf("want the source team to fail because of %q, got %+v", test.want, failed)
			}
			after := digestsOf(t, registry, "east")
			if after["shop"] != before["shop"] {
				t.Errorf("shop was %s and is %s", before["shop"], after["shop"])
			}
			if after["a"] == before["a"] {
				t.Error("a, which is from another source, did not change")
			}
			// Once more: still there, and nothing to do.
			if again := mustRun(t, registry, opts); again.Changed() {
				t.Errorf("the second publish changed something: %+v", again.Targets)
			}
		})
	}
}

func TestKeptSourceComesBack(t *testing.T) {
	s, registry := newTeam(t), oci.NewMemory()
	opts := options(t, s.fleet, releaseSigner(t))
	mustRun(t, registry, opts)
	before := digestsOf(t, registry, "east")
	s.push(map[string]string{"shop/cm.yaml": "kind: ConfigMap\n"})
	mustRun(t, registry, opts)
	s.push(map[string]string{"shop/cm.yaml": configMap("shop", "2"), "more/cm.yaml": configMap("more", "1")})
	result := mustRun(t, registry, opts)
	after := digestsOf(t, registry, "east")
	if len(result.Failed()) != 0 || after["shop"] == before["shop"] || after["more"] == "" {
		t.Errorf("got %+v and %v", result.Failed(), after)
	}
}

// The first publish has nothing to keep: everything must be right.
func TestFirstPublishWithABrokenSourceFails(t *testing.T) {
	s := newTeam(t)
	s.stop()
	if _, err := run(t, oci.NewMemory(), options(t, s.fleet, releaseSigner(t))); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("got %v", err)
	}
}

// A new cluster gets nothing of a source that cannot be read, nor what depends on it.
func TestNewClusterWhileASourceFails(t *testing.T) {
	s, registry := newTeam(t), oci.NewMemory()
	depends := "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b}\nspec: {dependsOn: [{bundle: shop}]}\n"
	s.write(map[string]string{"bundles/b/pinnace.yaml": depends})
	opts := options(t, s.fleet, releaseSigner(t))
	mustRun(t, registry, opts)
	s.stop()
	opts.CacheDir = t.TempDir()
	s.write(map[string]string{"clusters/all.yaml": cluster("east") + "---\n" + cluster("new")})
	mustRun(t, registry, opts)
	names := func(cluster string) []string {
		got, err := seen(t, registry, releaseSigner(t), cluster)
		if err != nil {
			t.Fatal(err)
		}
		return target.BundleNames(got)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "shop"}, names("east")); diff != "" {
		t.Errorf("east: %s", diff)
	}
	if diff := cmp.Diff([]string{"a", "c"}, names("new")); diff != "" {
		t.Errorf("new: %s", diff)
	}
}

func TestPausedBundle(t *testing.T) {
	s, registry := newTeam(t), oci.NewMemory()
	opts := options(t, s.fleet, releaseSigner(t))
	mustRun(t, registry, opts)
	before := digestsOf(t, registry, "east")
	paused := "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\nspec: {paused: true}\n"
	s.write(map[string]string{"bundles/a/pinnace.yaml": paused, "bundles/a/cm.yaml": configMap("a", "2"), "bundles/b/cm.yaml": configMap("b", "2")})
	result := mustRun(t, registry, opts)
	after := digestsOf(t, registry, "east")
	if after["a"] != before["a"] || after["b"] == before["b"] {
		t.Errorf("before %v, after %v", before, after)
	}
	if !slices.ContainsFunc(result.Warnings, func(w string) bool {
		return strings.HasPrefix(w, "bundles/a/pinnace.yaml:4:") && strings.Contains(w, "paused")
	}) {
		t.Errorf("no warning: %q", result.Warnings)
	}
	s.write(map[string]string{"bundles/a/pinnace.yaml": strings.Replace(paused, "true", "false", 1)})
	mustRun(t, registry, opts)
	if got := digestsOf(t, registry, "east"); got["a"] == before["a"] {
		t.Error("a did not go on")
	}
}

func TestKeep(t *testing.T) {
	bundle := func(name, source string, dependsOn ...string) v1alpha1.TargetBundle {
		return v1alpha1.TargetBundle{Name: name, Source: v1alpha1.SourceIdentity{Name: source}, DependsOn: dependsOn}
	}
	old := func(b v1alpha1.TargetBundle) v1alpha1.TargetBundle { b.Digest = "old"; return b }
	keep := &retained{sources: map[string]bool{"team": true}}
	tests := []struct {
		name               string
		next, before, want []v1alpha1.TargetBundle
	}{
		{"nothing before", []v1alpha1.TargetBundle{bundle("a", "apps")}, nil, []v1alpha1.TargetBundle{bundle("a", "apps")}},
		{
			"kept, and others go",
			[]v1alpha1.TargetBundle{bundle("a", "apps")},
			[]v1alpha1.TargetBundle{old(bundle("gone", "apps")), old(bundle("shop", "team"))},
			[]v1alpha1.TargetBundle{bundle("a", "apps"), old(bundle("shop", "team"))},
		},
		{
			"the same name elsewhere wins",
			[]v1alpha1.TargetBundle{bundle("shop", "apps")},
			[]v1alpha1.TargetBundle{old(bundle("shop", "team"))},
			[]v1alpha1.TargetBundle{bundle("shop", "apps")},
		},
		{
			"a selector's dependency stays",
			[]v1alpha1.TargetBundle{bundle("a", "apps")},
			[]v1alpha1.TargetBundle{old(bundle("a", "apps", "shop")), old(bundle("shop", "team"))},
			[]v1alpha1.TargetBundle{bundle("a", "apps", "shop"), old(bundle("shop", "team"))},
		},
		{
			"kept without what it depended on",
			nil,
			[]v1alpha1.TargetBundle{old(bundle("a", "apps")), old(bundle("shop", "team", "a"))},
			[]v1alpha1.TargetBundle{old(bundle("shop", "team"))},
		},
		{
			"a new dependency that the cluster doesn't have: as it was",
			[]v1alpha1.TargetBundle{bundle("a", "apps", "new-shop")},
			[]v1alpha1.TargetBundle{old(bundle("a", "apps"))},
			[]v1alpha1.TargetBundle{old(bundle("a", "apps"))},
		},
		{
			"and what depends on that in turn",
			[]v1alpha1.TargetBundle{bundle("a", "apps", "new-shop"), bundle("b", "apps", "a")},
			nil,
			nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := keep.keep(v1alpha1.Target{Bundles: test.next}, v1alpha1.Target{Bundles: test.before})
			clean := func(bundles []v1alpha1.TargetBundle) map[string]v1alpha1.TargetBundle {
				out := map[string]v1alpha1.TargetBundle{}
				for _, b := range bundles {
					if len(b.DependsOn) == 0 {
						b.DependsOn = nil
					}
					out[b.Name] = b
				}
				return out
			}
			if diff := cmp.Diff(clean(test.want), clean(got.Bundles)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
