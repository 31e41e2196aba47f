package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

// table is what is known of live objects: some hundred bytes each, never the object. Answers to our own requests
// and a watch write it.
type table struct {
	now func() time.Time

	mu      sync.RWMutex
	objects map[ID]*entry
	watched map[schema.GroupKind]bool // kinds whose entries a watch keeps up to date
}

type entry struct {
	ref    Ref
	bundle string
	// expected is the fingerprint after our last write or accepted comparison, 0 when there was none.
	expected uint64
	// print is the last one seen, 0 when the object is not there; version is the resource version it was seen at.
	print   uint64
	version uint64
	// health is meant when judged; judgedBy is the rule.
	judged   bool
	judgedBy criterion
	status   status.Status
	message  string
	since    time.Time // of this status
	// autoscaled: its replicas are another's.
	autoscaled bool
}

func newTable(now func() time.Time) *table {
	return &table{now: now, objects: map[ID]*entry{}, watched: map[schema.GroupKind]bool{}}
}

// fingerprint is a hash over the fields that we own and when we wrote them. Whoever changes the value of such a field
// becomes its owner, so another's change to what we applied always changes the fingerprint, and a change to anything
// else, the status or a field added beside ours, never does. It needs metadata only.
// https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers
func fingerprint(object metav1.Object) uint64 {
	entries := slices.DeleteFunc(slices.Clone(object.GetManagedFields()), func(e metav1.ManagedFieldsEntry) bool {
		return e.Subresource != "" || !ours(e)
	})
	slices.SortFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.APIVersion, b.APIVersion))
	})
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(object.GetUID()))
	for _, e := range entries {
		_, _ = hash.Write([]byte(e.Manager + "\x00" + string(e.Operation) + "\x00"))
		if e.Time != nil {
			_, _ = hash.Write([]byte(e.Time.UTC().Format(time.RFC3339)))
		}
		if e.FieldsV1 != nil {
			var fields any // decoded and encoded again: the order of keys differs between encodings
			if json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) == nil {
				canonical, _ := json.Marshal(fields)
				_, _ = hash.Write(canonical)
			}
		}
	}
	return max(hash.Sum64(), 1)
}

func ours(e metav1.ManagedFieldsEntry) bool {
	return e.Manager == v1alpha1.FieldManager && e.Operation == metav1.ManagedFieldsOperationApply || e.Manager == HelmManager
}

// versionOf parses a resource version, which is a number that grows; 0 when it is none. What a watch tells may be older
// than an answer that was noted already.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
func versionOf(resourceVersion string) uint64 {
	n, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// applied notes an object as it is after our own write, or after a comparison found nothing to do.
func (t *table) applied(live *unstructured.Unstructured, bundle Bundle, checks *health.Rules) {
	if bundle.Shared {
		return
	}
	ref := RefOf(live)
	print := fingerprint(live)
	rule := criterionFor(bundle.Options.Health, ref)
	state, message := condition(checks, live, rule)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(ref, bundle.Name)
	e.expected = print
	if t.newer(e, live.GetResourceVersion(), print) {
		t.setHealth(e, rule, state, message)
	} else {
		e.judged = e.judged && e.judgedBy == rule
	}
}

// newer notes the fingerprint of an object at a resource version, unless something later is known of it: a watch may
// tell of what comes after an answer before that answer is noted.
func (t *table) newer(e *entry, resourceVersion string, print uint64) bool {
	version := versionOf(resourceVersion)
	if version != 0 && version < e.version {
		return false
	}
	e.print, e.version = print, version
	return true
}

func (t *table) entry(ref Ref, bundle string) *entry {
	e, ok := t.objects[ref.ID()]
	if !ok {
		e = &entry{}
		t.objects[ref.ID()] = e
	}
	e.ref, e.bundle = ref, bundle
	return e
}

func (t *table) setHealth(e *entry, rule criterion, state status.Status, message string) {
	if !e.judged || e.status != state {
		e.since = t.now()
	}
	e.judged, e.judgedBy, e.status, e.message = true, rule, state, message
}

func (t *table) forget(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.objects, id)
}

func (t *table) drop(bundle string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.objects {
		if e.bundle == bundle {
			delete(t.objects, id)
		}
	}
}

// Seen is what a watch tells: what an event means for a bundle.
type Seen struct {
	Bundle string
	Ref    Ref
	// Drifted: fields of ours were changed, or the object was never compared.
	Drifted bool
	// Health: the object's health is another than before.
	Health bool
}

// Observe notes an object that a watch saw; whole is false for metadata only. The caller is the watch.
func (a *Applier) Observe(object *unstructured.Unstructured, whole bool) Seen {
	t := a.live
	ref := RefOf(object)
	print := fingerprint(object)
	bundle := object.GetLabels()[v1alpha1.LabelBundle]

	rule := t.rule(ref.ID())
	var state status.Status
	var message string
	if whole {
		state, message = condition(a.checks, object, rule)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	e, known := t.objects[ref.ID()]
	if !known {
		e = t.entry(ref, bundle)
	}
	seen := Seen{Bundle: e.bundle, Ref: e.ref}
	before := e.print
	if !t.newer(e, object.GetResourceVersion(), print) {
		return seen
	}
	switch {
	case whole && e.judged && e.judgedBy != rule: // the rule changed meanwhile: it is read again
		e.judged, seen.Health = false, true
	case whole:
		seen.Health = !e.judged || e.status != state || e.message != message
		t.setHealth(e, rule, state, message)
	case before == 0 && Plain(ref.ID().groupKind()):
		seen.Health = true // it is there again
		t.setHealth(e, criterion{}, status.CurrentStatus, "")
	}
	seen.Drifted = e.expected != print
	return seen
}

// rule is what the object was last judged by.
func (t *table) rule(id ID) criterion {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e, ok := t.objects[id]; ok {
		return e.judgedBy
	}
	return criterion{}
}

// Vanished notes that a watch saw the object go, or leave the bundle, at that resource version. ok is false when it is
// known to be there at a later one, or nobody expects it to be there.
func (a *Applier) Vanished(ref Ref, resourceVersion string) (seen Seen, ok bool) {
	return a.live.vanished(ref, versionOf(resourceVersion))
}

func (t *table) vanished(ref Ref, version uint64) (seen Seen, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.objects[ref.ID()]
	if !ok || version != 0 && version < e.version {
		return Seen{}, false
	}
	e.print, e.version = 0, version
	t.setHealth(e, e.judgedBy, status.NotFoundStatus, "is not there")
	if e.expected == 0 {
		delete(t.objects, ref.ID())
	}
	return Seen{Bundle: e.bundle, Ref: e.ref, Drifted: true, Health: true}, e.expected != 0
}

// Drifted says whether the object still is not as it was last written or accepted. Our own writes, whose events a
// watch may see before their answers arrive, are told from others' that way.
func (a *Applier) Drifted(ref Ref) bool {
	t := a.live
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.objects[ref.ID()]
	return ok && e.expected != e.print
}

// Forget drops what is known of objects that are about to be deleted by other means than Remove, so that their going
// is no drift.
func (a *Applier) Forget(inventory Inventory) {
	for _, ref := range inventory {
		a.live.forget(ref.ID())
	}
}

// Known are the objects of a kind that are there, as far as is known; a watch compares a fresh list with them.
func (a *Applier) Known(kind schema.GroupKind) []Ref {
	refs, _ := a.live.known(kind)
	return refs
}

// known returns the objects of a kind that are there, and the newest resource version among them.
func (t *table) known(kind schema.GroupKind) (refs []Ref, newest uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for id, e := range t.objects {
		if id.groupKind() == kind && e.print != 0 {
			refs, newest = append(refs, e.ref), max(newest, e.version)
		}
	}
	return refs, newest
}

// Survey is what reading all objects of a kind showed.
type Survey struct {
	Drifted []Seen
	// Rewound: the cluster's data are older than what was seen of them before, as after the restore of a backup. A watch
	// that is open then tells nothing until the cluster gets past where it was.
	Rewound bool
}

// Survey reads the metadata of all our objects of a kind, one request for each 500: it catches what a broken watch
// missed. reached is the resource version that the watch of the kind told last.
func (a *Applier) Survey(ctx context.Context, mapping Mapping, reached string) (Survey, error) {
	client, err := a.client(Bundle{})
	if err != nil {
		return Survey{}, err
	}
	kind := mapping.GroupVersionKind().GroupKind()
	for rewound := false; ; rewound = true {
		out := Survey{Rewound: rewound}
		before, newest := a.live.known(kind)
		found := map[ID]bool{}
		version, err := client.list(ctx, mapping, "", selection{labels: v1alpha1.LabelBundle}, true, 0, func(object *unstructured.Unstructured) {
			found[RefOf(object).ID()] = true
			if seen := a.Observe(object, false); seen.Drifted {
				out.Drifted = append(out.Drifted, seen)
			}
		})
		if err != nil {
			return Survey{}, fmt.Errorf("survey %s: %w", mapping.Resource, err)
		}
		// A list is never older than what was known when it was asked for.
		if at := versionOf(version); !rewound && at != 0 && at < max(newest, versionOf(reached)) {
			a.live.rewind(kind)
			continue
		}
		for _, ref := range before {
			if found[ref.ID()] {
				continue
			}
			if seen, ok := a.live.vanished(ref, newest); ok {
				out.Drifted = append(out.Drifted, seen)
			}
		}
		return out, nil
	}
}

// rewind forgets at which versions the objects of a kind were seen.
func (t *table) rewind(kind schema.GroupKind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.objects {
		if id.groupKind() == kind {
			e.version = 0
		}
	}
}

// Expect notes that what the inventory lists was just written by us as it should be, by other means than Apply.
func (a *Applier) Expect(ctx context.Context, bundle Bundle, inventory Inventory) error {
	client, err := a.client(bundle)
	if err != nil {
		return err
	}
	there, err := a.metadata(ctx, client, bundle.Name, inventory)
	if err != nil {
		return err
	}
	t := a.live
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ref := range inventory {
		if seen, ok := there[ref.ID()]; ok {
			e := t.entry(ref, bundle.Name)
			e.expected = seen.print
			t.newer(e, seen.version, seen.print)
		}
	}
	return nil
}

// Watched says whether a watch keeps the kind's objects up to date from now on.
func (a *Applier) Watched(kind schema.GroupKind, on bool) {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	if on {
		a.live.watched[kind] = true
	} else {
		delete(a.live.watched, kind)
	}
}
