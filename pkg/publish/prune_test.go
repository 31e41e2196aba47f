package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// history publishes n versions of bundle a, of which as many are kept as the fleet says.
func history(t *testing.T, to oci.Registry, keep, n int) (dir string, last Result) {
	t.Helper()
	dir = t.TempDir()
	for i := range n {
		last = publishVersion(t, to, dir, keep, i)
	}
	return dir, last
}

func publishVersion(t *testing.T, to oci.Registry, dir string, keep, i int) Result {
	t.Helper()
	write(t, dir, map[string]string{
		"bundles/a/cm.yaml": configMap("a", fmt.Sprint(i)),
		"pinnace.yaml":      strings.Replace(fleetFile, "spec:\n", fmt.Sprintf("spec:\n  history: %d\n", keep), 1),
	})
	opts := options(t, dir, releaseSigner(t))
	opts.Now = func() time.Time { return start.Add(time.Duration(i) * time.Minute) }
	return mustRun(t, to, opts)
}

func tagsOf(t *testing.T, in oci.Registry, name string) []string {
	t.Helper()
	repo, err := in.Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := repo.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

func withPrefix(tags []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return !strings.HasPrefix(tag, prefix) })
}

func TestHistoryIsBounded(t *testing.T) {
	server, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	remote, err := oci.Open(server.Addr+"/acme", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]oci.Registry{"memory": oci.NewMemory(), "embedded": remote} {
		t.Run(name, func(t *testing.T) {
			const keep, all = 3, 6
			signer := releaseSigner(t)
			_, last := history(t, to, keep, all)
			if last.Pruned == nil || len(last.Pruned.Publications) != 1 || last.Pruned.Targets != 2 || len(last.Pruned.Bundles) != 1 || len(last.Warnings) > 0 {
				t.Errorf("the last publish removed %+v, warnings %q", last.Pruned, last.Warnings)
			}
			want := []string{"pub-4", "pub-5", "pub-6"}
			if got := withPrefix(tagsOf(t, to, v1alpha1.RepositoryFleet), "pub-"); !slices.Equal(got, want) {
				t.Errorf("publications %q, want %q", got, want)
			}
			want = []string{"gen-4", "gen-5", "gen-6"}
			if got := withPrefix(tagsOf(t, to, v1alpha1.TargetRepository("east")), "gen-"); !slices.Equal(got, want) {
				t.Errorf("generations %q, want %q", got, want)
			}
			for of, want := range map[string]int{"a": keep, "b": 1} {
				tags := tagsOf(t, to, v1alpha1.BundleRepository(of))
				if got := len(withPrefix(tags, "sha-")); got != want {
					t.Errorf("%d artifacts of %s, want %d: %q", got, of, want, tags)
				}
				if got := len(withPrefix(tags, "sha256-")); got != want {
					t.Errorf("%d signatures of %s, want %d: %q", got, of, want, tags)
				}
			}
			checkWhole(t, to, signer)
			for publication := int64(5); publication >= 4; publication-- {
				opts := RollbackOptions{Options: options(t, "", signer), To: publication}
				opts.Now = func() time.Time { return start.Add(time.Hour) }
				opts.DryRun = publication == 5
				if _, err := Rollback(t.Context(), to, opts); err != nil {
					t.Errorf("back to %d: %v", publication, err)
				}
			}
			checkWhole(t, to, signer) // what publication 4 named is still there
		})
	}
}

// What clusters outside of the index run stays.
func TestPruneKeepsWhatMayRun(t *testing.T) {
	to, signer := oci.NewMemory(), releaseSigner(t)
	dir, _ := history(t, to, 1, 1)
	write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "0")})
	without := func(i int) Result {
		write(t, dir, map[string]string{
			"clusters/all.yaml": cluster("east"), "bundles/a/cm.yaml": configMap("a", fmt.Sprint(i)),
			"pinnace.yaml": strings.Replace(fleetFile, "spec:\n", "spec:\n  history: 1\n", 1),
		})
		opts := options(t, dir, signer)
		opts.Now = func() time.Time { return start.Add(time.Duration(i) * time.Minute) }
		return mustRun(t, to, opts)
	}
	for i := 1; i < 4; i++ {
		without(i)
	}
	if _, err := seen(t, to, signer, "west"); err != nil {
		t.Errorf("west left the fleet and lost what it runs: %v", err)
	}
	after := int(31 * 24 * time.Hour / time.Minute) // its target has expired
	without(after)
	without(after + 1)
	if _, err := seen(t, to, signer, "west"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the target of west has expired, its bundles are still there: %v", err)
	}
	checkWhole(t, to, signer)
}

func TestPrune(t *testing.T) {
	to, signer := oci.NewMemory(), releaseSigner(t)
	history(t, to, -1, 4)
	verifier, err := signer.Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := withPrefix(tagsOf(t, to, v1alpha1.RepositoryFleet), "pub-"); len(got) != 4 {
		t.Fatalf("a negative history keeps all, got %q", got)
	}
	opts := PruneOptions{Verifier: verifier, Keep: 2, DryRun: true}
	before := tagsOf(t, to, v1alpha1.TargetRepository("east"))
	planned, err := Prune(t.Context(), to, opts)
	if err != nil || !slices.Equal(planned.Publications, []int64{1, 2}) || planned.Targets != 4 || len(planned.Bundles) != 2 {
		t.Errorf("would remove %+v, %v", planned, err)
	}
	if after := tagsOf(t, to, v1alpha1.TargetRepository("east")); !slices.Equal(before, after) {
		t.Errorf("a dry run removed something: %q", after)
	}
	opts.DryRun = false
	if _, err := Prune(t.Context(), &withoutDelete{to, oci.ErrUnsupported}, opts); !errors.Is(err, oci.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if done, err := Prune(t.Context(), to, opts); err != nil || done.Targets != planned.Targets || len(done.Bundles) != len(planned.Bundles) {
		t.Errorf("removed %+v, %v", done, err)
	}
	if again, err := Prune(t.Context(), to, opts); err != nil || len(again.Publications)+again.Targets+len(again.Bundles) > 0 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	checkWhole(t, to, signer)
}

// A registry that refuses to delete is no reason to fail; one that nobody may delete in is worth a warning.
func TestPublishWithoutDelete(t *testing.T) {
	for _, test := range []struct {
		err  error
		warn bool
	}{{oci.ErrUnsupported, false}, {oci.ErrUnauthorized, true}} {
		to := &withoutDelete{oci.NewMemory(), test.err}
		if _, last := history(t, to, 1, 3); (len(last.Warnings) > 0) != test.warn {
			t.Errorf("%v: warnings %q", test.err, last.Warnings)
		}
		checkWhole(t, to, releaseSigner(t))
	}
}

type withoutDelete struct {
	oci.Registry
	err error
}

func (w *withoutDelete) Repository(name string) (oci.Repository, error) {
	repo, err := w.Registry.Repository(name)
	return &undeletable{repo, w.err}, err
}

type undeletable struct {
	oci.Repository
	err error
}

func (u *undeletable) Delete(context.Context, ocispec.Descriptor) error { return u.err }

// Fleets below prefixes of one registry never touch each other.
func TestFleetsShareARegistry(t *testing.T) {
	server, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	signer := releaseSigner(t)
	at := func(prefix string) oci.Registry {
		opened, err := oci.Open(server.Addr+"/"+prefix, oci.Options{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		return opened
	}
	history(t, at("one"), 10, 2)
	before := tagsOf(t, at("one"), v1alpha1.TargetRepository("east"))
	for _, neighbour := range []string{"two", "one/below"} {
		history(t, at(neighbour), 1, 3)
		if after := tagsOf(t, at("one"), v1alpha1.TargetRepository("east")); !slices.Equal(before, after) {
			t.Errorf("%s changed what its neighbour has: %q, want %q", neighbour, after, before)
		}
	}
	for _, prefix := range []string{"one", "two", "one/below"} {
		checkWhole(t, at(prefix), signer)
	}
}
