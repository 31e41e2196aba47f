package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// readOnly is a registry that takes nothing, until it is allowed, and lets nothing be deleted.
type readOnly struct {
	oci.Registry
	writes            atomic.Bool  // allowed
	pushes, deletions atomic.Int64 // asked for
}

func (r *readOnly) Repository(name string) (oci.Repository, error) {
	repo, err := r.Registry.Repository(name)
	return &readOnlyRepository{repo, r}, err
}

type readOnlyRepository struct {
	oci.Repository
	of *readOnly
}

func (r *readOnlyRepository) Push(ctx context.Context, desc ocispec.Descriptor, content []byte, tags ...string) error {
	r.of.pushes.Add(1)
	if !r.of.writes.Load() {
		return fmt.Errorf("push: %w", oci.ErrUnauthorized)
	}
	return r.Repository.Push(ctx, desc, content, tags...)
}

func (r *readOnlyRepository) Delete(context.Context, ocispec.Descriptor) error {
	r.of.deletions.Add(1)
	return fmt.Errorf("delete: %w", oci.ErrUnauthorized)
}

// reported reads the newest report of a registry or layout; nil when there is none.
func reported(t *testing.T, registry oci.Registry) *v1alpha1.StatusReport {
	t.Helper()
	repo, err := registry.Repository(v1alpha1.StatusRepository(clusterName))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent)
	if err != nil {
		return nil
	}
	manifest, _, err := oci.ReadManifest(t.Context(), repo, desc)
	if err != nil {
		t.Fatal(err)
	}
	data, err := oci.ReadAll(t.Context(), repo, manifest.Layers[0], v1alpha1.MaxReportSize)
	if err != nil {
		t.Fatal(err)
	}
	var report v1alpha1.StatusReport
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	return &report
}

// A site whose registry takes no reports keeps the newest on its disk, as an OCI layout, for somebody to carry it; a
// registry that takes them again gets the next one, and what was kept is gone.
func TestReportsOfAReadOnlySite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		site := &readOnly{Registry: w.registry}
		kept := func() *v1alpha1.StatusReport {
			layout, err := oci.OpenLayout(filepath.Join(w.dir, "status"))
			if err != nil {
				t.Fatal(err)
			}
			return reported(t, layout)
		}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(a *agent.Agent) {
			if got := kept(); got == nil || got.Target.Generation != 1 || !cmp.Equal(states(*got), []string{"web=Ready"}) {
				t.Errorf("kept after the first target: %+v", got)
			}
			w.follow(a, target(2, w.bundle("web", "2")))
			later(0, 10)
			if got := kept(); got == nil || got.Target.Generation != 2 {
				t.Errorf("kept after the second target: %+v", got)
			}
			site.pushes.Store(0)
			later(6, 10)
			if got := kept(); got == nil || time.Since(got.ReportedAt.Time) > 16*time.Minute {
				t.Errorf("six hours later: %+v", got)
			}
			if asked := site.pushes.Load(); asked == 0 || asked > 6*60 {
				t.Errorf("in six hours the registry was asked %d times to take a report", asked)
			}
			site.writes.Store(true)
			later(6, 30)
			if got := reported(t, w.registry); got == nil || got.Target.Generation != 2 {
				t.Errorf("the registry takes reports again, and has %+v", got)
			}
			if got := kept(); got != nil {
				t.Errorf("still kept: %+v", got)
			}
		}, trusting, every(time.Minute), func(config *agent.Config) {
			config.Signer, config.Registries = &recorder{}, []oci.Registry{site}
		})
	})
}

// count is how many reports were signed.
func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.signed)
}

// Where deletion is not allowed it is asked for once, and reports go on.
func TestReportsWhereNothingIsDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		site := &readOnly{Registry: w.registry}
		site.writes.Store(true)
		reports := &recorder{}
		w.publish(target(1, w.bundle("web", "1")))
		w.run(func(*agent.Agent) {
			before := reports.count()
			later(5, 0)
			synctest.Wait()
			if sent := reports.count() - before; sent < 15 || sent > 25 {
				t.Errorf("%d heartbeats in five hours, want some 20", sent)
			}
			if asked := site.deletions.Load(); asked != 1 {
				t.Errorf("deletion was asked for %d times, want once", asked)
			}
			if got := reported(t, w.registry); got == nil || time.Since(got.ReportedAt.Time) > 16*time.Minute {
				t.Errorf("newest: %+v", got)
			}
		}, trusting, every(time.Minute), func(config *agent.Config) {
			config.Signer, config.Registries = reports, []oci.Registry{site}
		})
		if strings.Contains(w.log.String(), "was not sent") {
			t.Errorf("reports failed:\n%s", w.log)
		}
	})
}
