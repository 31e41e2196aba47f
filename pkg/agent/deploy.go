package agent

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/manifests"
)

// Deployment is one bundle as a [Deployer] gets it: verified, substituted and in scope.
type Deployment struct {
	Bundle v1alpha1.TargetBundle
	Scope  Scope
	// Objects is what MethodApply brings to the cluster; Chart is what MethodRelease installs, packed.
	Objects []*unstructured.Unstructured
	Chart   []byte
	// Previous is the inventory that the last Deploy returned.
	Previous apply.Inventory
	// InUse are the namespaces of other bundles: never to be deleted.
	InUse []string
	// Record keeps, durably and before the first write to the cluster, what Deploy is going to touch, so that a crash
	// orphans nothing. Nil in Remove, Health and Repair.
	Record func(apply.Inventory) error
	// Recheck asks Health to read anew what is not ready: the bundle is about to fail for it.
	Recheck bool

	secrets []string // texts that no error may show
}

// Deployer brings bundles of one method to the cluster. It may be used concurrently, for different bundles. Errors are
// retried later by the agent with growing pauses, unless they are an [Error].
type Deployer interface {
	// Deploy brings the bundle to the cluster and prunes what left it. The result's inventory is valid with every
	// error. It doesn't wait for readiness.
	Deploy(ctx context.Context, deployment Deployment) (apply.Result, error)
	// Remove takes the bundle away as its prune options say. The result's inventory is what is still there: not empty
	// without an error means that deletion is under way.
	Remove(ctx context.Context, deployment Deployment) (apply.Result, error)
	// Health looks at what Deploy left, Previous. It is cheap: nothing is requested that is known already, short of a
	// Recheck.
	Health(ctx context.Context, deployment Deployment) (apply.Health, error)
	// Applied returns what Deploy brought to the cluster, object by object, to be compared with it.
	Applied(ctx context.Context, deployment Deployment) (apply.Bundle, error)
}

// outcome is what a worker brings back for a unit.
type outcome struct {
	record  *Record // nil when the bundle is gone
	result  apply.Result
	removed bool
	err     error
	secrets []string // texts that nothing told of the bundle may show
}

// deploy brings one bundle to the cluster: content from the disk, variables, scope, then the deployer. It runs beside
// the loop, on copies.
func (a *Agent) deploy(ctx context.Context, want v1alpha1.TargetBundle, generation int64, recorded *Record, inUse []string) outcome {
	failed := outcome{record: recorded}
	deployment, err := a.prepare(ctx, &want)
	if err == nil {
		err = a.verifyImages(ctx, &deployment, recorded)
	}
	if err != nil {
		failed.err = err
		return failed
	}
	deployment.InUse = inUse
	if recorded != nil && moved(&recorded.Bundle, &want) {
		gone := a.remove(ctx, *recorded, inUse)
		if gone.err != nil || gone.record != nil {
			gone.err = errors.Join(gone.err, errors.New("the version that ran before is still being removed"))
			return gone
		}
		recorded, failed.record = nil, nil
	}
	if recorded != nil {
		deployment.Previous = recorded.Inventory
	}
	next := func(inventory apply.Inventory, complete bool) Record {
		record := succeed(recorded, Version{Bundle: want, Generation: generation})
		record.Inventory, record.Complete = inventory, complete
		return record
	}
	deployment.Record = func(touched apply.Inventory) error {
		record, err := a.save(next(touched.Union(deployment.Previous), false))
		if err == nil {
			failed.record = record
		}
		return err
	}
	result, err := a.cfg.Deployers[want.Method].Deploy(ctx, deployment)
	err = hide(err, deployment.secrets)
	record, saveErr := a.save(next(result.Inventory, err == nil))
	if saveErr != nil {
		record = failed.record
	}
	return outcome{record: record, result: result, err: errors.Join(err, saveErr), secrets: deployment.secrets}
}

// remove takes a bundle that left away; the record goes when nothing is left.
func (a *Agent) remove(ctx context.Context, recorded Record, inUse []string) outcome {
	scope, err := newScope(&recorded.Bundle, a.cfg.Limits)
	if err != nil {
		return outcome{record: &recorded, removed: true, err: outOfScope(&recorded.Bundle, err)}
	}
	deployment := Deployment{Bundle: recorded.Bundle, Scope: scope, Previous: recorded.Inventory, InUse: inUse}
	result, err := a.cfg.Deployers[recorded.Bundle.Method].Remove(ctx, deployment)
	if err == nil && len(result.Inventory) == 0 {
		return outcome{removed: true, result: result, err: a.cfg.State.DropRecord(recorded.Bundle.Name)}
	}
	recorded.Inventory, recorded.Complete = result.Inventory, false
	record, saveErr := a.save(recorded)
	if saveErr != nil {
		record = &recorded
	}
	return outcome{record: record, removed: true, result: result, err: errors.Join(err, saveErr)}
}

// prepare reads a bundle from the disk, verified again, and makes it ready for its deployer.
func (a *Agent) prepare(ctx context.Context, want *v1alpha1.TargetBundle) (Deployment, error) {
	deployment := Deployment{Bundle: *want}
	var err error
	if deployment.Scope, err = newScope(want, a.cfg.Limits); err != nil {
		return deployment, outOfScope(want, err)
	}
	if a.cfg.Deployers[want.Method] == nil {
		return deployment, &Error{
			Stage: StageApply, Subject: subject(want), Reason: ReasonInvalidBundle,
			Mend: "run an agent that can", Err: fmt.Errorf("this agent cannot bring method %q to a cluster", want.Method),
		}
	}
	bundle, err := a.content.open(ctx, want)
	if err != nil {
		return deployment, problem(StageFetch, subject(want), err)
	}
	layer, err := bundle.Content(ctx)
	if err != nil {
		return deployment, problem(StageFetch, subject(want), err)
	}
	if err := a.openValues(&deployment); err != nil {
		return deployment, err
	}
	if err := a.readLocal(ctx, &deployment); err != nil {
		return deployment, err
	}
	if want.Method == v1alpha1.MethodRelease {
		deployment.Chart = layer
		return deployment, nil
	}
	if err := a.openObjects(&deployment, layer); err != nil {
		return deployment, err
	}
	if err := manifests.Substitute(deployment.Objects, deployment.Bundle.Variables); err != nil {
		return deployment, &Error{
			Stage: StageApply, Subject: subject(want), Reason: ReasonVariableMissing,
			Mend: "set it in the bundle's variables, or give it a default as in ${NAME:=value}",
			Err:  hide(err, deployment.secrets),
		}
	}
	if err := deployment.Scope.Check(deployment.Objects, want.Namespace, a.clusterKind); err != nil {
		return deployment, outOfScope(want, err)
	}
	return deployment, nil
}

func (a *Agent) clusterKind(kind schema.GroupVersionKind) bool {
	return a.cfg.ClusterKind != nil && a.cfg.ClusterKind(kind)
}

// save writes a bundle's record.
func (a *Agent) save(record Record) (*Record, error) {
	return &record, a.cfg.State.SaveRecord(record)
}

func outOfScope(bundle *v1alpha1.TargetBundle, err error) error {
	return &Error{
		Stage: StageScope, Subject: subject(bundle), Reason: ReasonOutOfScope,
		Mend: fmt.Sprintf("move it, or widen restrict of source %q in the fleet and spec.limits of this agent", bundle.Source.Name),
		Err:  err,
	}
}

func invalid(bundle *v1alpha1.TargetBundle, err error) error {
	typed := problem(StageApply, subject(bundle), err)
	if ReasonOf(typed, "") == ReasonUnreachable {
		return &Error{Stage: StageApply, Subject: subject(bundle), Reason: ReasonInvalidBundle, Mend: "publish again", Err: err}
	}
	return typed
}
