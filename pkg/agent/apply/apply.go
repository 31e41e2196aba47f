// Package apply brings a bundle's objects to a cluster by server-side apply, keeps the inventory of what it applied,
// prunes what left, and says how healthy the objects are.
//
// [Applier.Apply] and [Applier.Remove] return a [Result]: what happened to each object, and an [Inventory] that is to
// be kept for the next call. [Applier.Health] reads the table of live objects that the answers of apply requests and
// a watch (package drift) keep up to date, so it costs no requests while the watch runs.
//
// An object costs one request: the answer to a server-side apply says whether it created, changed or left the object
// as it was, and a server-side apply that changes nothing writes nothing. Staging a set through fluxcd/pkg/ssa's
// ResourceManager costs a get, a dry run and an apply for each new object; its order, ownership and difference rules
// are used here, its request loop is not.
package apply

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

// Bundle is what to bring to the cluster. It is not changed.
type Bundle struct {
	Name string
	// Namespace receives namespaced objects that name none, and is created when absent. "default" when empty.
	Namespace string
	Objects   []*unstructured.Unstructured
	Options   v1alpha1.DeployOptions
	// Previous is the inventory of the last apply, empty the first time.
	Previous Inventory
	// InUse are namespaces of other bundles, which are never deleted.
	InUse []string
	// Shared objects get no labels: they belong to no bundle, are not watched and must not be in Previous.
	Shared bool
	// Record, if set, is called before the first write with all that may exist afterwards, so that a crash orphans
	// nothing. Its error stops the apply.
	Record func(Inventory) error
	// Manager is the field manager: "pinnace" when empty, HelmManager for objects of a Helm release.
	Manager string
}

// HelmManager is the field manager of objects that belong to a Helm release. Helm 3 updates under that name and its
// updates always win; Helm 4 applies under it, and would be refused if another applier owned its fields.
const HelmManager = "helm"

func (b Bundle) manager() string {
	if b.Manager == "" {
		return v1alpha1.FieldManager
	}
	return b.Manager
}

func (b Bundle) namespace() string {
	if b.Namespace == "" {
		return "default"
	}
	return b.Namespace
}

// Options of an Applier; the zero value is good.
type Options struct {
	// Parallel bounds the requests in flight; 24 when zero. There is no other client-side limit: a server that is
	// busy answers 429 with Retry-After (API Priority and Fairness), which is obeyed.
	Parallel int
	// Wait bounds waiting for something that must happen before the apply can go on: a CRD established, a deleted
	// object or namespace gone; 60 s when zero.
	Wait time.Duration
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Applier works on one cluster. It may be used concurrently, for different bundles.
type Applier struct {
	config  *rest.Config
	http    *http.Client
	options Options
	slots   chan struct{}
	kinds   *Kinds
	live    *table
	checks  *health.Rules
	pods    *podCache

	mu      sync.Mutex
	clients map[string]*client // by impersonated user
}

// New returns an applier for the cluster that config reaches. It sends nothing.
func New(config *rest.Config, options Options) (*Applier, error) {
	if options.Parallel <= 0 {
		options.Parallel = 24
	}
	if options.Wait <= 0 {
		options.Wait = time.Minute
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	kinds, err := newKinds(config, httpClient)
	if err != nil {
		return nil, err
	}
	return &Applier{
		config: config, http: httpClient, options: options, slots: make(chan struct{}, options.Parallel),
		kinds: kinds, live: newTable(options.Now), checks: health.NewRules(), pods: newPodCache(options.Now),
		clients: map[string]*client{},
	}, nil
}

// Config is the client configuration, to build other clients that reach the same cluster.
func (a *Applier) Config() *rest.Config { return rest.CopyConfig(a.config) }

// HTTPClient is shared by all clients of the cluster.
func (a *Applier) HTTPClient() *http.Client { return a.http }

// Kinds is the cached knowledge of what kinds the cluster serves.
func (a *Applier) Kinds() *Kinds { return a.kinds }

// Apply brings the bundle to the cluster and then prunes what left it since Previous. Stages follow each other:
// namespaces, CRDs, cluster-wide definitions, configuration, workloads, custom resources, webhooks; within a stage
// objects go in parallel. After a stage with failures the later ones are skipped and nothing is pruned.
//
// The error is an *Error; Result is valid with every error, also when ctx was cancelled.
func (a *Applier) Apply(ctx context.Context, bundle Bundle) (Result, error) {
	result := Result{Inventory: bundle.Previous.Union(nil)}
	client, err := a.client(bundle)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Err: err}
	}
	a.kinds.learn(bundle.Objects)
	objects, err := a.prepare(ctx, bundle)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Err: err}
	}
	prior, err := a.prior(ctx, client, bundle)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Err: err}
	}
	run := &run{Applier: a, client: client, bundle: bundle, prior: prior}

	stages := inStages(objects)
	var wanted Inventory
	for _, stage := range stages {
		for _, object := range stage.objects {
			wanted = append(wanted, RefOf(object))
		}
	}
	if bundle.Record != nil {
		if err := bundle.Record(result.Inventory.Union(wanted).Union(run.ownNamespace(objects))); err != nil {
			return result, &Error{Bundle: bundle.Name, Err: fmt.Errorf("record inventory: %w", err)}
		}
	}
	own, changes, err := run.firstNamespace(ctx, objects)
	if err != nil {
		return result, &Error{Bundle: bundle.Name, Object: namespaceRef(bundle.namespace()), Err: err}
	}
	wanted = wanted.Union(own)
	result.Changes = append(result.Changes, changes...)
	result.Inventory = result.Inventory.Union(wanted)

	for _, stage := range stages {
		if failure(bundle.Name, result.Changes) != nil {
			result.Changes = append(result.Changes, notReached(stage.objects)...)
			continue
		}
		changes := run.stage(ctx, stage.objects)
		if stage.settle {
			run.settle(ctx, stage.objects, changes)
		}
		result.Changes = append(result.Changes, changes...)
	}
	if err := failure(bundle.Name, result.Changes); err != nil {
		return result, err
	}

	changes, remaining := run.prune(ctx, bundle.Previous.Minus(wanted))
	result.Changes = append(result.Changes, changes...)
	result.Inventory = InventoryOf(wanted...).Union(remaining)
	return result, failure(bundle.Name, changes)
}

// run is one Apply, Remove or Repair.
type run struct {
	*Applier
	client *client
	bundle Bundle
	prior  map[ID]seen // what was there before, as far as known
}

// stage applies objects in parallel; changes are in the objects' order.
func (r *run) stage(ctx context.Context, objects []*unstructured.Unstructured) []Change {
	changes := make([]Change, len(objects))
	var group errgroup.Group
	group.SetLimit(r.options.Parallel)
	for i, object := range objects {
		group.Go(func() error {
			action, err := r.object(ctx, object)
			changes[i] = Change{Object: RefOf(object), Action: action, Err: err}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	return changes
}

// settle waits for CRDs to be established; a failure becomes the change's.
func (r *run) settle(ctx context.Context, objects []*unstructured.Unstructured, changes []Change) {
	for i := range changes {
		if changes[i].Action == Failed {
			continue
		}
		if err := r.established(ctx, objects[i]); err != nil {
			changes[i].Action, changes[i].Err = Failed, err
		}
	}
}

func notReached(objects []*unstructured.Unstructured) []Change {
	changes := make([]Change, 0, len(objects))
	for _, object := range objects {
		changes = append(changes, Change{Object: RefOf(object), Action: Skipped, Err: ErrNotReached})
	}
	return changes
}

// prepare returns copies of the bundle's objects as they are applied: lists opened, namespace and labels set, each
// object once.
func (a *Applier) prepare(ctx context.Context, bundle Bundle) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	known := map[ID]bool{}
	add := func(object *unstructured.Unstructured) error {
		prepared, err := a.prepareOne(ctx, bundle, object)
		if err != nil {
			return err
		}
		ref := RefOf(prepared)
		if known[ref.ID()] {
			return fmt.Errorf("%s is in the bundle twice", ref)
		}
		known[ref.ID()] = true
		out = append(out, prepared)
		return nil
	}
	for _, object := range bundle.Objects {
		if !object.IsList() {
			if err := add(object); err != nil {
				return nil, err
			}
			continue
		}
		list, err := object.ToList()
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", RefOf(object), err)
		}
		for i := range list.Items {
			if err := add(&list.Items[i]); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (a *Applier) prepareOne(ctx context.Context, bundle Bundle, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ref := RefOf(object)
	if ref.APIVersion == "" || ref.Kind == "" || ref.Name == "" {
		return nil, fmt.Errorf("object %q lacks apiVersion, kind or metadata.name", ref)
	}
	if _, err := a.kinds.Mapping(ctx, ref); err != nil {
		return nil, err
	}
	ref, err := a.Place(ctx, bundle, ref)
	if err != nil {
		return nil, err
	}
	object = object.DeepCopy()
	object.SetNamespace(ref.Namespace)
	if !bundle.Shared {
		labels := object.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		if bundle.manager() == v1alpha1.FieldManager {
			labels[v1alpha1.LabelManagedBy] = v1alpha1.FieldManager
		}
		labels[v1alpha1.LabelBundle] = bundle.Name
		object.SetLabels(labels)
	}
	tidy(object)
	return object, nil
}

// Place returns the ref as the bundle's objects are named in the cluster: with the bundle's namespace when it is
// namespaced and names none, without one when it is cluster-wide.
func (a *Applier) Place(ctx context.Context, bundle Bundle, ref Ref) (Ref, error) {
	mapping, err := a.kinds.Any(ctx, ref)
	if err != nil {
		return Ref{}, err
	}
	switch {
	case !mapping.Namespaced:
		ref.Namespace = ""
	case ref.Namespace == "":
		ref.Namespace = bundle.namespace()
	}
	return ref, nil
}

// tidy drops what a server fills in, and turns a Secret's stringData, which a server never shows, into data.
func tidy(object *unstructured.Unstructured) {
	for _, field := range []string{"managedFields", "creationTimestamp", "resourceVersion", "uid", "generation", "selfLink"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	if !isCRD(object) {
		unstructured.RemoveNestedField(object.Object, "status")
	}
	if object.GetAPIVersion() == "v1" && object.GetKind() == "Secret" {
		foldStringData(object)
	}
}
