package apply

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// hanging is how long finalizers may hold an object before it is reported.
const hanging = 2 * time.Minute

// seen is what a list or get of metadata told of an object.
type seen struct {
	uid        types.UID
	version    string
	print      uint64
	generation int64
	bundle     string // the label's
	keep       bool   // annotated
	deleting   time.Time
	finalizers []string
}

func seenOf(object *unstructured.Unstructured) seen {
	s := seen{
		uid: object.GetUID(), version: object.GetResourceVersion(), print: fingerprint(object),
		generation: object.GetGeneration(),
		bundle:     object.GetLabels()[v1alpha1.LabelBundle],
		keep:       object.GetAnnotations()[v1alpha1.AnnotationPrune] == "disabled",
		finalizers: object.GetFinalizers(),
	}
	if at := object.GetDeletionTimestamp(); at != nil {
		s.deleting = at.Time
	}
	return s
}

// prior reads what there is of the bundle's previous objects: one request per kind and namespace.
func (a *Applier) prior(ctx context.Context, client *client, bundle Bundle) (map[ID]seen, error) {
	return a.metadata(ctx, client, bundle.Name, bundle.Previous)
}

// metadata reads the metadata of refs that carry the bundle's label. Absent ones, and those of other bundles, are not
// in the map.
func (a *Applier) metadata(ctx context.Context, client *client, bundle string, refs []Ref) (map[ID]seen, error) {
	type place struct {
		mapping   Mapping
		namespace string
	}
	places := map[place][]Ref{}
	for _, ref := range refs {
		mapping, err := a.kinds.Any(ctx, ref)
		if meta.IsNoMatchError(err) {
			continue // not served any more: gone
		}
		if err != nil {
			return nil, err
		}
		at := place{mapping, ref.Namespace}
		places[at] = append(places[at], ref)
	}
	out := map[ID]seen{}
	var mu sync.Mutex
	note := func(id ID, object *unstructured.Unstructured) {
		mu.Lock()
		defer mu.Unlock()
		out[id] = seenOf(object)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(a.options.Parallel)
	for at, refs := range places {
		group.Go(func() error {
			if len(refs) > 1 {
				_, err := client.list(ctx, at.mapping, at.namespace, selection{labels: v1alpha1.LabelBundle + "=" + bundle}, true, 0,
					func(object *unstructured.Unstructured) { note(RefOf(object).ID(), object) })
				if !apierrors.IsForbidden(err) {
					return ignoreNotFound(err)
				}
			}
			for _, ref := range refs {
				object, err := client.get(ctx, at.mapping, ref.Namespace, ref.Name, true)
				if ignoreNotFound(err) != nil {
					return fmt.Errorf("read %s: %w", ref, err)
				}
				if err == nil && object.GetLabels()[v1alpha1.LabelBundle] == bundle {
					note(ref.ID(), object)
				}
			}
			return nil
		})
	}
	return out, group.Wait()
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// verdict says what is to become of an object that left the bundle.
type verdict struct {
	action Action // Deleted: delete it; Skipped: leave it; Failed: it hangs
	keep   bool   // it stays in the inventory
	err    error
}

// judge decides about one object; pure. live is what is there, absent when nothing of the bundle is.
func judge(ref Ref, live seen, present bool, bundle string, rules v1alpha1.Prune, now time.Time) verdict {
	switch {
	case rules.Enabled != nil && !*rules.Enabled:
		return verdict{action: Skipped, err: ErrKept}
	case Keeps(rules, ref):
		return verdict{action: Skipped, err: ErrKept}
	case !present:
		return verdict{action: Deleted}
	case live.bundle != bundle:
		return verdict{action: Skipped, err: ErrNotOurs}
	case live.keep:
		return verdict{action: Skipped, err: ErrPruneDisabled}
	case !live.deleting.IsZero() && now.Sub(live.deleting) > hanging:
		return verdict{action: Failed, keep: true, err: hangs(live)}
	case !live.deleting.IsZero():
		return verdict{action: Skipped, keep: true, err: ErrTerminating}
	}
	return verdict{action: Deleted}
}

func hangs(live seen) error {
	return fmt.Errorf("hangs in deletion since %s: finalizers %q hold it; their controller must finish, or remove them",
		live.deleting.UTC().Format(time.RFC3339), live.finalizers)
}

// Keeps says whether a rule keeps the object from being pruned.
func Keeps(rules v1alpha1.Prune, ref Ref) bool {
	return slices.ContainsFunc(rules.Keep, func(rule v1alpha1.KeepRule) bool {
		return matches(rule.APIVersion, ref.APIVersion) && matches(rule.Kind, ref.Kind) && matches(rule.Name, ref.Name)
	})
}

// prune deletes what left the bundle, last stage first. remaining is what must stay in the inventory.
func (r *run) prune(ctx context.Context, refs []Ref) (changes []Change, remaining Inventory) {
	for _, stage := range removalStages(refs) {
		done := make([]Change, len(stage))
		kept := make([]bool, len(stage))
		var group errgroup.Group
		group.SetLimit(r.options.Parallel)
		for i, ref := range stage {
			group.Go(func() error {
				done[i], kept[i] = r.pruneOne(ctx, ref)
				return nil
			})
		}
		_ = group.Wait() // the functions return no errors
		for i, change := range done {
			changes = append(changes, change)
			if kept[i] {
				remaining = append(remaining, change.Object)
			}
		}
	}
	return changes, remaining
}

func (r *run) pruneOne(ctx context.Context, ref Ref) (change Change, keep bool) {
	live, present := r.prior[ref.ID()]
	verdict := judge(ref, live, present, r.bundle.Name, r.bundle.Options.Prune, r.options.Now())
	change = Change{Object: ref, Action: verdict.action, Err: verdict.err}
	if verdict.action == Skipped && !verdict.keep {
		r.live.forget(ref.ID())
	}
	if verdict.action != Deleted || !present {
		return change, verdict.keep
	}
	mapping, err := r.kinds.Any(ctx, ref)
	if err != nil {
		return Change{Object: ref, Action: Failed, Err: err}, true
	}
	if ref.ID().groupKind() == namespaceKind {
		if err := r.emptyNamespace(ctx, ref.Name); err != nil {
			return Change{Object: ref, Action: Skipped, Err: err}, true
		}
	}
	r.live.forget(ref.ID()) // before it goes, so that its going is no drift
	gone, err := r.client.delete(ctx, mapping, ref.Namespace, ref.Name, live.uid)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone, or another object has its name by now
		return change, false
	case err != nil:
		return Change{Object: ref, Action: Failed, Err: fmt.Errorf("delete: %w", err)}, true
	}
	return change, !gone
}

// contents are the kinds that a namespace is searched for before it is deleted.
var contents = []schema.GroupVersionKind{
	{Version: "v1", Kind: "PersistentVolumeClaim"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "Secret"},
	{Version: "v1", Kind: "ConfigMap"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "batch", Version: "v1", Kind: "CronJob"},
}

// emptyNamespace returns an error that names what a namespace holds of others: deleting the namespace would delete it.
func (r *run) emptyNamespace(ctx context.Context, name string) error {
	if slices.Contains(r.bundle.InUse, name) {
		return fmt.Errorf("%w: another bundle's", ErrInUse)
	}
	for _, gvk := range contents {
		apiVersion, kind := gvk.ToAPIVersionAndKind()
		mapping, err := r.kinds.Mapping(ctx, Ref{APIVersion: apiVersion, Kind: kind})
		if err != nil {
			return err
		}
		var foreign *Ref
		_, err = r.client.list(ctx, mapping, name, selection{labels: v1alpha1.LabelBundle + "!=" + r.bundle.Name}, true, 0,
			func(object *unstructured.Unstructured) {
				made := len(object.GetOwnerReferences()) > 0 || object.GetDeletionTimestamp() != nil ||
					kind == "ConfigMap" && object.GetName() == "kube-root-ca.crt" ||
					kind == "Secret" && object.GetAnnotations()["kubernetes.io/service-account.name"] != ""
				if foreign == nil && !made {
					ref := RefOf(object)
					foreign = &ref
				}
			})
		if err != nil {
			return fmt.Errorf("look into namespace %s: %w", name, err)
		}
		if foreign != nil {
			return fmt.Errorf("%w: %s", ErrInUse, foreign)
		}
	}
	return nil
}
