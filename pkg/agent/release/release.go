// Package release brings a bundle to a cluster as a Helm release, by the same contract as package apply: what happened
// comes back as an apply.Result, and helm ls, helm history and helm rollback see an ordinary release.
//
// [Releaser.Deploy] installs or upgrades, and does nothing when the release already has the same inputs: their digest
// is a label of the release. [Releaser.Objects] returns what the release should consist of, for drift and repair.
//
// Objects carry the label pinnace.dev/bundle, which a post-renderer adds, so that they can be watched; their
// app.kubernetes.io/managed-by stays Helm's. Hooks are Helm's own business and carry none.
//
// Drift of a release's objects is compared and repaired by server-side apply under the field manager "helm": only the
// fields of the manifest, none that somebody added. Helm 3 updates under the same name, and an update takes any field
// without asking, so a later upgrade is never hindered; Helm 4 applies under it, so it owns what we repaired.
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/kube"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Labels of a release, on the Secrets in which Helm stores it.
const (
	labelInputs = "pinnace.dev/inputs" // digest of what it was made from
	labelBundle = v1alpha1.LabelBundle
)

func init() {
	// Helm's field manager is a package variable; its default is the program's name, which helm upgrade by hand
	// would not share.
	kube.ManagedFieldsManager = apply.HelmManager
}

// Release is what to bring to the cluster. It is not changed.
type Release struct {
	// Bundle is the bundle's name, Name the release's; the bundle's when empty.
	Bundle    string
	Name      string
	Namespace string
	// Chart is packed as helm package does; verified by the caller.
	Chart  []byte
	Values v1alpha1.Values
	Helm   v1alpha1.HelmOptions
	// Options hold as for objects that are applied; what Prune keeps is annotated helm.sh/resource-policy: keep.
	Options v1alpha1.DeployOptions
	// Previous is the inventory of the last deploy, InUse are namespaces of other bundles, and Record is told what may
	// exist before the first write: as in apply.Bundle.
	Previous apply.Inventory
	InUse    []string
	Record   func(apply.Inventory) error
}

func (r Release) name() string {
	if r.Name == "" {
		return r.Bundle
	}
	return r.Name
}

// AsBundle is the release for package apply: for health, drift and repair.
func (r Release) AsBundle() apply.Bundle {
	return apply.Bundle{
		Name: r.Bundle, Namespace: r.Namespace, Options: r.Options, Previous: r.Previous, InUse: r.InUse,
		Manager: apply.HelmManager,
	}
}

func (r Release) timeout() time.Duration {
	if r.Helm.Timeout.Duration <= 0 {
		return 5 * time.Minute
	}
	return r.Helm.Timeout.Duration
}

func (r Release) maxHistory() int {
	if r.Helm.MaxHistory <= 0 {
		return 5
	}
	return r.Helm.MaxHistory
}

// Options of a Releaser; the zero value is good.
type Options struct {
	// Log gets Helm's messages, at debug level.
	Log *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Releaser works on one cluster. It may be used concurrently, for different releases.
type Releaser struct {
	applier *apply.Applier
	options Options
	running sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // releases that Helm is at, by namespace/name
}

// New returns a releaser for the applier's cluster. It sends nothing.
func New(applier *apply.Applier, options Options) *Releaser {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	return &Releaser{applier: applier, options: options, busy: map[string]bool{}}
}

// Wait returns when no operation of Helm runs any more: those whose context was cancelled go on by themselves.
func (r *Releaser) Wait() { r.running.Wait() }

// Deploy installs or upgrades the release, or does nothing when the release that is deployed was made from the same
// inputs. It waits for hooks and, with Atomic, for readiness; otherwise ask apply.Applier.Health. A release that an
// agent left pending when it died is taken up; one that somebody else is at is left alone until it is older than its
// timeout.
//
// The error is an *apply.Error; Result is valid with every error. When ctx is cancelled while Helm works, Deploy
// returns and Helm goes on, see Wait.
func (r *Releaser) Deploy(ctx context.Context, release Release) (apply.Result, error) {
	result := apply.Result{Inventory: release.Previous.Union(nil)}
	fail := func(err error) (apply.Result, error) {
		var typed *apply.Error
		if errors.As(err, &typed) {
			return result, err
		}
		return result, &apply.Error{Bundle: release.Bundle, Err: err}
	}
	packed, err := loader.LoadArchive(bytes.NewReader(release.Chart))
	if err != nil {
		return fail(fmt.Errorf("open chart: %w", err))
	}
	values, err := r.values(ctx, release)
	if err != nil {
		return fail(err)
	}
	inputs, err := digest(release, values)
	if err != nil {
		return fail(err)
	}
	own, changes, err := r.applier.Namespace(ctx, release.AsBundle())
	if err != nil {
		return fail(err)
	}
	result.Changes, result.Inventory = changes, result.Inventory.Union(own)

	config, err := r.config(release)
	if err != nil {
		return fail(err)
	}
	last, err := r.last(config, release)
	if err != nil {
		return fail(err)
	}
	if last != nil && last.Info.Status == helmrelease.StatusDeployed && last.Labels[labelInputs] == inputs {
		return r.unchanged(release, last, result, own)
	}
	if !release.Helm.SkipCRDs {
		if err := r.customResources(ctx, release, packed); err != nil {
			return fail(err)
		}
	}
	if config.Capabilities, err = r.capabilities(); err != nil {
		return fail(err)
	}
	operation := operation{releaser: r, config: config, release: release, chart: packed, values: values, inputs: inputs, last: last}
	done, err := r.detached(ctx, release, operation.run)
	// Whatever went wrong: both the release before and this one may exist now.
	after, inventoryErr := manifestInventory(r.applier, release, done)
	result.Inventory = result.Inventory.Union(after)
	if err != nil {
		return fail(err)
	}
	if inventoryErr != nil {
		return fail(inventoryErr)
	}
	result.Changes = append(result.Changes, compare(release, last, done, after)...)
	result.Inventory = after.Union(own)
	if err := r.applier.Expect(ctx, release.AsBundle(), after); err != nil {
		return fail(fmt.Errorf("read what was installed: %w", err))
	}
	return result, nil
}

func (r *Releaser) unchanged(release Release, last *helmrelease.Release, result apply.Result, own apply.Inventory) (apply.Result, error) {
	inventory, err := manifestInventory(r.applier, release, last)
	if err != nil {
		return result, &apply.Error{Bundle: release.Bundle, Err: err}
	}
	for _, ref := range inventory {
		result.Changes = append(result.Changes, apply.Change{Object: ref, Action: apply.Unchanged})
	}
	result.Inventory = inventory.Union(own)
	return result, nil
}

// Objects returns what the deployed release consists of, without hooks, as package apply takes them. None when it is
// not installed.
func (r *Releaser) Objects(_ context.Context, release Release) ([]*unstructured.Unstructured, error) {
	config, err := r.config(release)
	if err != nil {
		return nil, err
	}
	deployed, err := config.Releases.Deployed(release.name())
	if errors.Is(err, driver.ErrNoDeployedReleases) || errors.Is(err, driver.ErrReleaseNotFound) {
		if deployed, err = r.last(config, release); deployed == nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read release %s/%s: %w", release.Namespace, release.name(), err)
	}
	return manifestObjects(deployed)
}

// Remove uninstalls the release, and then removes what the inventory lists beyond it, such as the namespace. Hooks run
// as in helm uninstall.
func (r *Releaser) Remove(ctx context.Context, release Release) (apply.Result, error) {
	result := apply.Result{Inventory: release.Previous.Union(nil)}
	fail := func(err error) (apply.Result, error) { return result, &apply.Error{Bundle: release.Bundle, Err: err} }
	config, err := r.config(release)
	if err != nil {
		return fail(err)
	}
	last, err := r.last(config, release)
	if err != nil {
		return fail(err)
	}
	bundle := release.AsBundle()
	if last != nil && release.Options.Prune.Enabled != nil && !*release.Options.Prune.Enabled {
		return r.applier.Remove(ctx, bundle) // which keeps all
	}
	if last != nil {
		kept, err := keptByHelm(last)
		if err != nil {
			return fail(err)
		}
		r.applier.Forget(bundle.Previous.Minus(kept))
		_, err = r.detached(ctx, release, func() (*helmrelease.Release, error) {
			uninstall := action.NewUninstall(config)
			uninstall.Timeout, uninstall.DisableHooks = release.timeout(), release.Helm.DisableHooks
			uninstall.DeletionPropagation = "background"
			_, err := uninstall.Run(release.name())
			if errors.Is(err, driver.ErrReleaseNotFound) {
				err = nil
			}
			return last, err
		})
		if err != nil {
			return fail(fmt.Errorf("uninstall: %w", err))
		}
		bundle.Previous = bundle.Previous.Minus(kept)
		for _, ref := range kept {
			result.Changes = append(result.Changes, apply.Change{Object: ref, Action: apply.Skipped, Err: apply.ErrKept})
		}
	}
	rest, err := r.applier.Remove(ctx, bundle)
	result.Changes, result.Inventory = append(result.Changes, rest.Changes...), rest.Inventory
	return result, err
}

// last returns the newest revision, nil when there is none.
func (r *Releaser) last(config *action.Configuration, release Release) (*helmrelease.Release, error) {
	last, err := config.Releases.Last(release.name())
	switch {
	case errors.Is(err, driver.ErrReleaseNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read release %s/%s: %w", release.Namespace, release.name(), err)
	}
	return last, nil
}

// detached runs one operation of Helm, which nothing can interrupt. It returns early when ctx is done.
func (r *Releaser) detached(ctx context.Context, release Release, run func() (*helmrelease.Release, error)) (*helmrelease.Release, error) {
	key := release.Namespace + "/" + release.name()
	r.mu.Lock()
	if r.busy[key] {
		r.mu.Unlock()
		return nil, fmt.Errorf("release %s: an earlier operation still runs; it ends within %s", key, release.timeout())
	}
	r.busy[key] = true
	r.mu.Unlock()
	type outcome struct {
		release *helmrelease.Release
		err     error
	}
	done := make(chan outcome, 1)
	r.running.Go(func() {
		out, err := run()
		r.mu.Lock()
		delete(r.busy, key)
		r.mu.Unlock()
		done <- outcome{out, err}
	})
	select {
	case out := <-done:
		return out.release, out.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// checkDependencies says which charts lack in the archive.
func checkDependencies(packed *chart.Chart) error {
	if err := action.CheckDependencies(packed, packed.Metadata.Dependencies); err != nil {
		return fmt.Errorf("chart %s is incomplete: %w; run helm dependency update before publishing", packed.Name(), err)
	}
	return nil
}
