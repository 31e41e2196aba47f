package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

// Health of a bundle's objects. It is ready when Ready equals Total.
type Health struct {
	Ready, Total int
	// Failed: something will not become ready by itself.
	Failed bool
	// Problems are the worst ten.
	Problems []v1alpha1.Problem
}

// Reasons of problems, as kstatus names them, and of the two that have their own.
const (
	ReasonFailed      = string(status.FailedStatus)
	ReasonInProgress  = string(status.InProgressStatus)
	ReasonTerminating = string(status.TerminatingStatus)
	ReasonMissing     = string(status.NotFoundStatus)
	ReasonUnknown     = string(status.UnknownStatus)
)

// explainAfter is how long a workload may be on its way before its pods are asked for the reason.
const explainAfter = 10 * time.Second

// plain are kinds that are as they should be as soon as they exist.
var plain = map[schema.GroupKind]bool{
	{Kind: "ConfigMap"}: true, {Kind: "Secret"}: true, {Kind: "ServiceAccount"}: true, {Kind: "LimitRange"}: true,
	{Kind: "Endpoints"}: true, {Kind: "PodTemplate"}: true, {Kind: "ResourceQuota"}: true,
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:                              true,
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:                              true,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:                       true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:                       true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:                true,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:                             true,
	{Group: "networking.k8s.io", Kind: "IngressClass"}:                              true,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:                             true,
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                                 true,
	{Group: "storage.k8s.io", Kind: "CSIDriver"}:                                    true,
	{Group: "node.k8s.io", Kind: "RuntimeClass"}:                                    true,
	{Group: "coordination.k8s.io", Kind: "Lease"}:                                   true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:   true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}: true,
}

// Plain says whether existing is all that objects of the kind can do: a watch of their metadata tells everything.
func Plain(kind schema.GroupKind) bool { return plain[kind] }

// Health says how many of the inventory's objects are ready, by kstatus or the bundle's CEL checks. What a watch
// keeps up to date costs nothing; the rest is listed, one request per kind and namespace.
func (a *Applier) Health(ctx context.Context, bundle Bundle, inventory Inventory) (Health, error) {
	client, err := a.client(bundle)
	if err != nil {
		return Health{}, &Error{Bundle: bundle.Name, Err: err}
	}
	if err := a.checks.Compile(bundle.Options.Health.Checks); err != nil {
		return Health{}, &Error{Bundle: bundle.Name, Err: err}
	}
	if unknown := a.live.unknown(inventory, bundle.Options.Health); len(unknown) > 0 {
		if err := a.look(ctx, client, bundle, unknown); err != nil {
			return Health{}, &Error{Bundle: bundle.Name, Err: fmt.Errorf("read health: %w", err)}
		}
	}
	entries := a.live.entries(inventory)
	health := summarise(inventory, entries)
	a.explain(ctx, client, health.Problems, entries)
	return health, nil
}

// Recheck is Health with all that is not ready read anew: for a verdict that costs something, since a watch may be late.
func (a *Applier) Recheck(ctx context.Context, bundle Bundle, inventory Inventory) (Health, error) {
	a.live.doubt(inventory)
	return a.Health(ctx, bundle, inventory)
}

// doubt makes what is not ready unknown.
func (t *table) doubt(refs []Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ref := range refs {
		if e, ok := t.objects[ref.ID()]; ok && e.status != status.CurrentStatus {
			e.judged = false
		}
	}
}

// unknown returns the refs whose table entry is missing, stale, or was judged by another rule.
func (t *table) unknown(refs []Ref, options v1alpha1.Health) []Ref {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []Ref
	for _, ref := range refs {
		id := ref.ID()
		e, ok := t.objects[id]
		rule := criterionFor(options, ref)
		watched := t.watched[id.groupKind()]
		switch {
		case !ok || !e.judged || e.judgedBy != rule:
			out = append(out, ref)
		case !watched && (rule.ready != "" || !Plain(id.groupKind())):
			out = append(out, ref)
		}
	}
	return out
}

func (t *table) entries(refs []Ref) map[ID]entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make(map[ID]entry, len(refs))
	for _, ref := range refs {
		if e, ok := t.objects[ref.ID()]; ok {
			out[ref.ID()] = *e
		}
	}
	return out
}

// look reads objects and notes their health.
func (a *Applier) look(ctx context.Context, client *client, bundle Bundle, refs []Ref) error {
	type place struct {
		mapping   Mapping
		namespace string
	}
	places := map[place][]Ref{}
	for _, ref := range refs {
		mapping, err := a.kinds.Any(ctx, ref)
		if meta.IsNoMatchError(err) {
			a.live.looked(ref, nil, bundle, a.checks)
			continue
		}
		if err != nil {
			return err
		}
		places[place{mapping, ref.Namespace}] = append(places[place{mapping, ref.Namespace}], ref)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(a.options.Parallel)
	for at, refs := range places {
		group.Go(func() error {
			if len(refs) > 1 {
				missing := map[ID]Ref{}
				for _, ref := range refs {
					missing[ref.ID()] = ref
				}
				_, err := client.list(ctx, at.mapping, at.namespace, selection{labels: v1alpha1.LabelBundle + "=" + bundle.Name}, false, 0,
					func(object *unstructured.Unstructured) {
						ref := RefOf(object)
						if _, ok := missing[ref.ID()]; ok {
							a.live.looked(ref, object, bundle, a.checks)
							delete(missing, ref.ID())
						}
					})
				if ignoreNotFound(err) != nil && !apierrors.IsForbidden(err) {
					return err
				}
				refs = refs[:0:0]
				for _, ref := range missing { // one by one: their label may be gone, or listing is forbidden
					refs = append(refs, ref)
				}
			}
			for _, ref := range refs {
				object, err := client.get(ctx, at.mapping, ref.Namespace, ref.Name, false)
				if ignoreNotFound(err) != nil {
					return fmt.Errorf("read %s: %w", ref, err)
				}
				a.live.looked(ref, object, bundle, a.checks)
			}
			return nil
		})
	}
	return group.Wait()
}

// looked notes the health of an object that was read; nil when it is not there.
func (t *table) looked(ref Ref, object *unstructured.Unstructured, bundle Bundle, checks *health.Rules) {
	rule := criterionFor(bundle.Options.Health, ref)
	state, message, print, version := status.NotFoundStatus, "is not there", uint64(0), ""
	if object != nil {
		state, message = condition(checks, object, rule)
		print, version = fingerprint(object), object.GetResourceVersion()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(ref, bundle.Name)
	if object == nil && e.print != 0 && t.watched[ref.ID().groupKind()] {
		return // the watch saw it come meanwhile, or will tell that it went
	}
	if t.newer(e, version, print) {
		t.setHealth(e, rule, state, message)
	}
}

// summarise is pure: counts, and the worst problems first.
func summarise(inventory Inventory, entries map[ID]entry) Health {
	health := Health{Total: len(inventory)}
	rank := map[status.Status]int{
		status.FailedStatus: 0, status.NotFoundStatus: 1, status.TerminatingStatus: 2, status.UnknownStatus: 3, status.InProgressStatus: 4,
	}
	var worst []entry
	for _, ref := range inventory {
		e, ok := entries[ref.ID()]
		if !ok {
			e = entry{ref: ref, status: status.UnknownStatus}
		}
		if e.status == status.CurrentStatus {
			health.Ready++
			continue
		}
		health.Failed = health.Failed || e.status == status.FailedStatus
		worst = append(worst, e)
	}
	slices.SortStableFunc(worst, func(a, b entry) int { return rank[a.status] - rank[b.status] })
	for _, e := range worst[:min(len(worst), v1alpha1.MaxProblems)] {
		health.Problems = append(health.Problems, v1alpha1.Problem{
			Object: e.ref.String(), Reason: string(e.status), Message: e.message,
		})
	}
	return health
}

// oneLine bounds text for a status.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 300 {
		return string(runes[:300]) + "…"
	}
	return text
}
