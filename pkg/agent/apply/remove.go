package apply

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Remove deletes everything of a bundle that left the target: Previous, by the rules of Options.Prune, last applied
// first. Custom resources are waited for, so that their controller can finish them before it goes itself. What
// finalizers hold longer than Options.Wait is reported as failed and stays in the inventory: call again later.
// Namespaces that hold what is not the bundle's are left.
func (a *Applier) Remove(ctx context.Context, bundle Bundle) (Result, error) {
	result := Result{Inventory: bundle.Previous.Union(nil)}
	client, err := a.client(bundle)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Err: err}
	}
	prior, err := a.prior(ctx, client, bundle)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Err: err}
	}
	run := &run{Applier: a, client: client, bundle: bundle, prior: prior}
	own := namespaceRef(bundle.namespace())
	for _, stage := range removalStages(bundle.Previous) {
		if bundle.Options.Prune.KeepNamespace && slices.ContainsFunc(stage, func(ref Ref) bool { return ref.ID() == own.ID() }) {
			stage = Inventory(stage).Minus([]Ref{own})
			result.Changes = append(result.Changes, Change{Object: own, Action: Skipped, Err: ErrKept})
			result.Inventory = result.Inventory.Minus([]Ref{own})
		}
		changes, remaining := run.prune(ctx, stage)
		remaining = run.settleRemoval(ctx, changes, remaining)
		result.Changes = append(result.Changes, changes...)
		result.Inventory = result.Inventory.Minus(stage).Union(remaining)
	}
	if len(result.Inventory) == 0 {
		a.live.drop(bundle.Name)
	}
	return result, failure(bundle.Name, result.Changes)
}

// settleRemoval waits for what finalizers hold, turns what still hangs into failures, and returns what remains.
func (r *run) settleRemoval(ctx context.Context, changes []Change, remaining Inventory) Inventory {
	held := make([]bool, len(changes))
	var group errgroup.Group
	for i := range changes {
		if change := &changes[i]; remaining.Has(change.Object) && change.Action == Deleted {
			group.Go(func() error {
				held[i] = r.waitRemoved(ctx, change)
				return nil
			})
		}
	}
	_ = group.Wait() // the functions return no errors
	var out Inventory
	for i, change := range changes {
		if held[i] || change.Action != Deleted && remaining.Has(change.Object) {
			out = append(out, change.Object)
		}
	}
	return out
}

func (r *run) waitRemoved(ctx context.Context, change *Change) (held bool) {
	mapping, err := r.kinds.Any(ctx, change.Object)
	if meta.IsNoMatchError(err) {
		return false
	}
	if err == nil {
		err = r.waitGone(ctx, mapping, change.Object.Namespace, change.Object.Name)
	}
	if err != nil {
		change.Action, change.Err = Failed, err
	}
	return err != nil
}
