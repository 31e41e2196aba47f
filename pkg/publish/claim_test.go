package publish

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Publishers at the same time: some win, the others say why not, and what clusters see is of one publication.
func TestPublishersAtTheSameTime(t *testing.T) {
	server, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	open := func() oci.Registry {
		t.Helper()
		opened, err := oci.Open(server.Addr+"/acme", oci.Options{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		return opened
	}
	const publishers, rounds = 3, 4
	signer := releaseSigner(t)
	mustRun(t, open(), options(t, write(t, t.TempDir(), nil), signer))
	refused := 0
	for round := range rounds {
		errs := make([]error, publishers)
		var all sync.WaitGroup
		for i := range publishers {
			version := fmt.Sprintf("%d-%d", round, i)
			dir := write(t, t.TempDir(), map[string]string{"bundles/a/cm.yaml": configMap("a", version)})
			opts, own := options(t, dir, signer), open()
			opts.Now = func() time.Time { return start.Add(time.Duration(round*publishers+i+1) * time.Minute) }
			all.Go(func() { _, errs[i] = run(t, own, opts) })
		}
		all.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case errors.Is(err, ErrConcurrent):
				refused++
			default:
				t.Fatal(err)
			}
		}
		if won == 0 {
			t.Errorf("round %d: nobody published", round)
		}
		checkWhole(t, open(), signer)
	}
	if refused == 0 {
		t.Log("publishers never met: the rounds say little")
	}
}

// checkWhole checks that tags, index and content belong together.
func checkWhole(t *testing.T, registry oci.Registry, signer *signing.Signer) {
	t.Helper()
	verifier, err := signer.Verifier(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := ReadIndex(t.Context(), registry, verifier)
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range index.Clusters {
		if _, err := seen(t, registry, signer, cluster.Name); err != nil {
			t.Errorf("publication %d: %s: %v", index.Publication, cluster.Name, err)
		}
		repo, err := registry.Repository(v1alpha1.TargetRepository(cluster.Name))
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range []string{v1alpha1.TagCurrent, v1alpha1.GenerationTag(cluster.Generation)} {
			desc, err := repo.Resolve(t.Context(), tag)
			if err != nil || desc.Digest.String() != cluster.Digest {
				t.Errorf("publication %d: %s:%s is %s (%v), want %s", index.Publication, repo, tag, desc.Digest, err, cluster.Digest)
			}
		}
	}
}

// meeting holds every publisher back before it claims a publication, until all are there.
type meeting struct {
	oci.Registry
	arrived *sync.WaitGroup
	once    sync.Once
}

func (m *meeting) Repository(name string) (oci.Repository, error) {
	repo, err := m.Registry.Repository(name)
	if name == v1alpha1.RepositoryFleet {
		repo = &meetingRepository{repo, m}
	}
	return repo, err
}

type meetingRepository struct {
	oci.Repository
	meeting *meeting
}

func (r *meetingRepository) Tags(ctx context.Context) ([]string, error) {
	r.meeting.once.Do(func() {
		r.meeting.arrived.Done()
		r.meeting.arrived.Wait()
	})
	return r.Repository.Tags(ctx)
}

// Two that claim the same publication at the same moment: exactly one makes it, the other leaves nothing.
func TestTwoClaimsAtTheSameMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer, shared := releaseSigner(t), oci.NewMemory()
		mustRun(t, shared, options(t, write(t, t.TempDir(), nil), signer))
		var arrived, done sync.WaitGroup
		arrived.Add(2)
		errs := make([]error, 2)
		for i := range errs {
			dir := write(t, t.TempDir(), map[string]string{"bundles/a/cm.yaml": configMap("a", fmt.Sprint("by ", i))})
			opts := options(t, dir, signer)
			opts.Now = func() time.Time { return start.Add(time.Duration(i+1) * time.Minute) }
			done.Go(func() { _, errs[i] = run(t, &meeting{Registry: shared, arrived: &arrived}, opts) })
		}
		done.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || !errors.Is(errs[1-winner], ErrConcurrent) || !strings.Contains(errs[1-winner].Error(), "run it again") {
			t.Fatalf("got %v and %v, want one winner", errs[0], errs[1])
		}
		checkWhole(t, shared, signer)
		repo, err := shared.Repository(v1alpha1.TargetRepository("east"))
		if err != nil {
			t.Fatal(err)
		}
		tags, err := repo.Tags(t.Context())
		if err != nil || len(tags) != 5 { // two generations, their signatures, current
			t.Errorf("%v, %v: the one that gave up left something", tags, err)
		}
	})
}

// A publisher that died after its claim holds nobody up for long.
func TestClaimOfTheDead(t *testing.T) {
	for _, id := range []string{"1-0", "1-z"} { // before and after all others
		synctest.Test(t, func(t *testing.T) {
			signer, shared := releaseSigner(t), oci.NewMemory()
			repo, err := shared.Repository(v1alpha1.RepositoryFleet)
			if err != nil {
				t.Fatal(err)
			}
			dead := &claim{repo: repo, publication: 1}
			if _, _, err := oci.Push(t.Context(), repo, dead.artifact(), claimPrefix+id); err != nil {
				t.Fatal(err)
			}
			started := time.Now()
			if result := mustRun(t, shared, options(t, write(t, t.TempDir(), nil), signer)); result.Publication != 1 {
				t.Errorf("publication %d, want 1", result.Publication)
			}
			if took := time.Since(started); took < claimPatience || took > 3*claimPatience {
				t.Errorf("took %s", took)
			}
		})
	}
}

// Tags that a slow publisher moves back after somebody went on are moved again.
func TestSlowFinish(t *testing.T) {
	signer, shared := releaseSigner(t), oci.NewMemory()
	mustRun(t, shared, options(t, write(t, t.TempDir(), nil), signer))
	second := options(t, write(t, t.TempDir(), map[string]string{"bundles/a/cm.yaml": configMap("a", "2")}), signer)
	slow := &interposed{Registry: shared, at: v1alpha1.TagCurrent, do: func() {
		third := options(t, write(t, t.TempDir(), map[string]string{"bundles/a/cm.yaml": configMap("a", "3")}), signer)
		third.Now = func() time.Time { return start.Add(time.Hour) }
		if result := mustRun(t, shared, third); result.Publication != 3 {
			t.Errorf("publication %d, want 3", result.Publication)
		}
	}}
	second.Jobs = 1
	if _, err := run(t, slow, second); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, shared, signer)
	if got, err := seen(t, shared, signer, "west"); err != nil || got.Generation != 3 {
		t.Errorf("west has generation %d, %v", got.Generation, err)
	}
}

// interposed does something once before a tag is pushed.
type interposed struct {
	oci.Registry
	at   string
	do   func()
	once sync.Once
}

func (i *interposed) Repository(name string) (oci.Repository, error) {
	repo, err := i.Registry.Repository(name)
	return &interposedRepository{repo, i}, err
}

type interposedRepository struct {
	oci.Repository
	interposed *interposed
}

func (r *interposedRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	if len(tags) > 0 && tags[0] == r.interposed.at {
		r.interposed.once.Do(r.interposed.do)
	}
	return r.Repository.Push(ctx, desc, content, tags...)
}

// A fleet index that was not made from the one before it is damage, not a publish to finish.
func TestForkedHistory(t *testing.T) {
	signer, one, other := releaseSigner(t), oci.NewMemory(), oci.NewMemory()
	dir := write(t, t.TempDir(), nil)
	mustRun(t, one, options(t, dir, signer))
	opts := options(t, dir, signer)
	opts.Now = func() time.Time { return start.Add(time.Hour) }
	mustRun(t, other, opts)
	write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	mustRun(t, other, opts)
	from, err := other.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		t.Fatal(err)
	}
	to, err := one.Repository(v1alpha1.RepositoryFleet)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := from.Resolve(t.Context(), v1alpha1.PublicationTag(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.Copy(t.Context(), from, to, desc, v1alpha1.PublicationTag(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, one, opts); !errors.Is(err, oci.ErrDamaged) || !strings.Contains(err.Error(), "pub-2") {
		t.Errorf("got %v", err)
	}
}
