package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/health"
)

func TestInventory(t *testing.T) {
	old := Ref{APIVersion: "extensions/v1beta1", Kind: "Ingress", Namespace: "shop", Name: "web"}
	moved := Ref{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Namespace: "shop", Name: "web"}
	beta := Ref{APIVersion: "batch/v1beta1", Kind: "CronJob", Namespace: "shop", Name: "nightly"}
	stable := Ref{APIVersion: "batch/v1", Kind: "CronJob", Namespace: "shop", Name: "nightly"}
	gone := Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "gone"}

	before := InventoryOf(old, beta, gone)
	after := InventoryOf(moved, stable)
	if diff := cmp.Diff(Inventory{gone}, before.Minus(after)); diff != "" {
		t.Errorf("minus (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Inventory{gone, stable, moved}, before.Union(after)); diff != "" {
		t.Errorf("union (-want +got):\n%s", diff)
	}
	encoded, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	var again Inventory
	if err := json.Unmarshal(encoded, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, again); diff != "" {
		t.Errorf("through JSON (-want +got):\n%s", diff)
	}
	if got, want := moved.String(), "networking.k8s.io/v1 Ingress shop/web"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStages(t *testing.T) {
	order := []schema.GroupKind{
		{Kind: "Namespace"},
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
		{Group: "storage.k8s.io", Kind: "StorageClass"},
		{Kind: "ConfigMap"},
		{Group: "apps", Kind: "Deployment"},
		{Group: "gateway.networking.k8s.io", Kind: "GatewayClass"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
	}
	for want, kind := range order {
		if got := stageOf(kind); got != want {
			t.Errorf("%s is in stage %d, want %d", kind, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ref := Ref{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data"}
	mine := seen{bundle: "shop"}
	off := false
	for name, tc := range map[string]struct {
		live    seen
		present bool
		rules   v1alpha1.Prune
		action  Action
		keep    bool
		err     error
	}{
		"delete":             {live: mine, present: true, action: Deleted},
		"gone":               {action: Deleted},
		"off":                {live: mine, present: true, rules: v1alpha1.Prune{Enabled: &off}, action: Skipped, err: ErrKept},
		"kept by kind":       {live: mine, present: true, rules: v1alpha1.Prune{Keep: []v1alpha1.KeepRule{{Kind: "PersistentVolumeClaim"}}}, action: Skipped, err: ErrKept},
		"kept by name":       {live: mine, present: true, rules: v1alpha1.Prune{Keep: []v1alpha1.KeepRule{{Name: "da*"}}}, action: Skipped, err: ErrKept},
		"another rule":       {live: mine, present: true, rules: v1alpha1.Prune{Keep: []v1alpha1.KeepRule{{Kind: "Secret"}}}, action: Deleted},
		"another bundle's":   {live: seen{bundle: "other"}, present: true, action: Skipped, err: ErrNotOurs},
		"annotated":          {live: seen{bundle: "shop", keep: true}, present: true, action: Skipped, err: ErrPruneDisabled},
		"terminating":        {live: seen{bundle: "shop", deleting: now.Add(-time.Second)}, present: true, action: Skipped, keep: true, err: ErrTerminating},
		"hangs":              {live: seen{bundle: "shop", deleting: now.Add(-time.Hour)}, present: true, action: Failed, keep: true},
		"hangs but is keept": {live: seen{bundle: "shop", deleting: now.Add(-time.Hour)}, present: true, rules: v1alpha1.Prune{Enabled: &off}, action: Skipped, err: ErrKept},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(ref, tc.live, tc.present, "shop", tc.rules, now)
			if got.action != tc.action || got.keep != tc.keep || tc.err != nil && !errors.Is(got.err, tc.err) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// managed returns an object whose managed fields are the given entries.
func managed(t *testing.T, spec map[string]any, entries ...metav1.ManagedFieldsEntry) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetManagedFields(entries)
	return object
}

func entryOf(manager string, operation metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: manager, Operation: operation, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}
}

func TestFingerprint(t *testing.T) {
	const apply, update = metav1.ManagedFieldsOperationApply, metav1.ManagedFieldsOperationUpdate
	ours := entryOf("pinnace", apply, `{"f:a":{},"f:b":{}}`)
	base := fingerprint(managed(t, nil, ours))
	for name, tc := range map[string]struct {
		entries []metav1.ManagedFieldsEntry
		same    bool
	}{
		"keys in another order":   {[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:b":{},"f:a":{}}`)}, true},
		"another adds a field":    {[]metav1.ManagedFieldsEntry{entryOf("kubectl", update, `{"f:c":{}}`), ours}, true},
		"another takes a field":   {[]metav1.ManagedFieldsEntry{entryOf("kubectl", update, `{"f:b":{}}`), entryOf("pinnace", apply, `{"f:a":{}}`)}, false},
		"an update in our name":   {[]metav1.ManagedFieldsEntry{entryOf("pinnace", update, `{"f:c":{}}`), ours}, true},
		"helm took over":          {[]metav1.ManagedFieldsEntry{entryOf("helm", update, `{"f:b":{}}`), ours}, false},
		"not ours any more":       {nil, false},
		"somebody's status write": {[]metav1.ManagedFieldsEntry{ours, {Manager: "helm", Subresource: "status", Operation: update}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fingerprint(managed(t, nil, tc.entries...)) == base; got != tc.same {
				t.Errorf("same fingerprint: %v, want %v", got, tc.same)
			}
		})
	}
}

func TestWithoutFields(t *testing.T) {
	object := func() *unstructured.Unstructured {
		items := []any{}
		for i := range 12 {
			items = append(items, map[string]any{"name": fmt.Sprint(i), "image": "x", "a/b~c": "y"})
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"kind": "X", "metadata": map[string]any{"annotations": map[string]any{"one": "1", "two": "2"}},
			"list": []any{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"}, "items": items,
		}}
	}
	for name, tc := range map[string]struct {
		pointers []string
		want     []string // of Expand
		left     func(map[string]any) any
		leaves   any
	}{
		"plain":    {[]string{"/items"}, []string{"/items"}, func(o map[string]any) any { return o["items"] }, nil},
		"nothing":  {[]string{"/absent/*/x", "/kind/*"}, nil, func(o map[string]any) any { return o["kind"] }, "X"},
		"map":      {[]string{"/metadata/annotations/*"}, []string{"/metadata/annotations/one", "/metadata/annotations/two"}, func(o map[string]any) any { return o["metadata"] }, map[string]any{"annotations": map[string]any{}}},
		"list":     {[]string{"/list/2", "/list/10", "/list/9"}, []string{"/list/10", "/list/2", "/list/9"}, func(o map[string]any) any { return o["list"] }, []any{"a", "b", "d", "e", "f", "g", "h", "i"}},
		"escaped":  {[]string{"/items/1*", "/items/*/a~1b~0c"}, nil, func(o map[string]any) any { return o["items"].([]any)[11] }, map[string]any{"name": "11", "image": "x"}},
		"in items": {[]string{"/items/*/image"}, nil, func(o map[string]any) any { return o["items"].([]any)[3] }, map[string]any{"name": "3", "a/b~c": "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Expand(tc.pointers, object()); tc.want != nil && !slices.Equal(got, tc.want) {
				t.Errorf("Expand = %v, want %v", got, tc.want)
			}
			got, err := WithoutFields(object(), tc.pointers)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.leaves, tc.left(got.Object)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKeepIgnored(t *testing.T) {
	const apply, update = metav1.ManagedFieldsOperationApply, metav1.ManagedFieldsOperationUpdate
	containers := func(image string) []any {
		return []any{map[string]any{"name": "web", "image": image}}
	}
	desired := map[string]any{"replicas": int64(1), "containers": containers("web:1")}
	for name, tc := range map[string]struct {
		live     map[string]any
		entries  []metav1.ManagedFieldsEntry
		pointers []string
		want     map[string]any
		fenced   bool // carries the live resource version
	}{
		"ours": {
			map[string]any{"replicas": int64(5)},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{"f:replicas":{}}}`)},
			[]string{"/spec/replicas"},
			map[string]any{"replicas": int64(5), "containers": containers("web:1")},
			true,
		},
		"another's": {
			map[string]any{"replicas": int64(5)},
			[]metav1.ManagedFieldsEntry{entryOf("hpa", update, `{"f:spec":{"f:replicas":{}}}`)},
			[]string{"/spec/replicas"},
			map[string]any{"containers": containers("web:1")},
			false,
		},
		"removed by somebody": {
			map[string]any{},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{}}`)},
			[]string{"/spec/replicas"},
			map[string]any{"containers": containers("web:1")},
			false,
		},
		"in a list by key": {
			map[string]any{"containers": containers("web:2")},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{}}}}}`)},
			[]string{"/spec/containers/0/image"},
			map[string]any{"replicas": int64(1), "containers": containers("web:2")},
			true,
		},
		"in a list owned as a whole": {
			map[string]any{"containers": containers("web:2")},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{"f:containers":{}}}`)},
			[]string{"/spec/containers/0/image"},
			map[string]any{"replicas": int64(1), "containers": containers("web:2")},
			true,
		},
		"in all items, others before ours": {
			map[string]any{"containers": append([]any{map[string]any{"name": "proxy", "image": "proxy:9"}}, containers("web:2")...)},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{}}}}}`)},
			[]string{"/spec/containers/*/image"},
			map[string]any{"replicas": int64(1), "containers": containers("web:2")},
			true,
		},
		"an item that is not there": {
			map[string]any{"containers": []any{map[string]any{"name": "proxy", "image": "proxy:9"}}},
			[]metav1.ManagedFieldsEntry{entryOf("pinnace", apply, `{"f:spec":{"f:containers":{}}}`)},
			[]string{"/spec/containers/*/image"},
			map[string]any{"replicas": int64(1), "containers": []any{map[string]any{"name": "web"}}},
			false,
		},
		"not applied at all": {
			map[string]any{"paused": true}, nil, []string{"/spec/paused"}, desired, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web"}, "spec": desired,
			}}
			live := managed(t, tc.live, tc.entries...)
			live.SetResourceVersion("7")
			got, err := keepIgnored(object, live, tc.pointers, "pinnace")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Object["spec"]); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if fenced := got.GetResourceVersion() == "7"; fenced != tc.fenced {
				t.Errorf("fenced: %v, want %v", fenced, tc.fenced)
			}
		})
	}
}

func TestSummarise(t *testing.T) {
	var inventory Inventory
	entries := map[ID]entry{}
	add := func(name string, state status.Status) {
		ref := Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: name}
		inventory = append(inventory, ref)
		entries[ref.ID()] = entry{ref: ref, status: state, message: "m"}
	}
	add("a", status.CurrentStatus)
	for _, name := range []string{"b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
		add(name, status.InProgressStatus)
	}
	add("z", status.FailedStatus)
	inventory = append(inventory, Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "unknown"})
	health := summarise(inventory, entries)
	if health.Ready != 1 || health.Total != 14 || !health.Failed || len(health.Problems) != v1alpha1.MaxProblems {
		t.Errorf("health %+v", health)
	}
	want := []v1alpha1.Problem{
		{Object: "apps/v1 Deployment shop/z", Reason: ReasonFailed, Message: "m"},
		{Object: "v1 ConfigMap shop/unknown", Reason: ReasonUnknown},
	}
	if diff := cmp.Diff(want, health.Problems[:2]); diff != "" {
		t.Errorf("worst (-want +got):\n%s", diff)
	}
}

func TestWaiting(t *testing.T) {
	pod := func(state string) *unstructured.Unstructured {
		object := &unstructured.Unstructured{}
		if err := json.Unmarshal([]byte(state), &object.Object); err != nil {
			t.Fatal(err)
		}
		return object
	}
	pull := pod(`{"status":{"containerStatuses":[{"state":{"waiting":{"reason":"ImagePullBackOff","message":"back-off"}}}]}}`)
	crash := pod(`{"status":{"containerStatuses":[{"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}}`)
	pending := pod(`{"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes"}]}}`)
	fine := pod(`{"status":{"containerStatuses":[{"state":{"running":{}}}]}}`)
	mounting := pod(`{"metadata":{"name":"mounting"},"status":{"containerStatuses":[{"state":{"waiting":{"reason":"ContainerCreating"}}}]}}`)
	ready := pod(`{"metadata":{"name":"ready"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	warnings := map[string]warning{
		"mounting": {reason: "FailedMount", message: "no secret tls"},
		"ready":    {reason: "Unhealthy", message: "long ago"},
	}
	for name, tc := range map[string]struct {
		pods []*unstructured.Unstructured
		want string
	}{
		"none":           {nil, ""},
		"told by events": {[]*unstructured.Unstructured{mounting, ready}, "1 pod FailedMount (no secret tls)"},
		"fine":           {[]*unstructured.Unstructured{fine}, ""},
		"some": {
			[]*unstructured.Unstructured{crash, pull, fine, pull, pending},
			"2 pods ImagePullBackOff (back-off), 1 pod CrashLoopBackOff, 1 pod Unschedulable (0/1 nodes)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := waiting(tc.pods, warnings); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestChecks(t *testing.T) {
	object := &unstructured.Unstructured{Object: map[string]any{"kind": "Boat", "status": map[string]any{"phase": "Afloat"}}}
	for name, tc := range map[string]struct {
		ready string
		want  status.Status
		err   bool
	}{
		"true":        {`self.status.phase == "Afloat"`, status.CurrentStatus, false},
		"false":       {`self.status.phase == "Sunk"`, status.InProgressStatus, false},
		"not there":   {`self.status.other == "x"`, status.InProgressStatus, false},
		"optional":    {`self.?status.?other.orValue("x") == "x"`, status.CurrentStatus, false},
		"not bool":    {`"text"`, "", true},
		"no CEL":      {`self.`, "", true},
		"too costly":  {`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, self.status.phase != ""))))))`, status.InProgressStatus, false},
		"wrong types": {`self.status.phase > 3`, status.InProgressStatus, false},
	} {
		t.Run(name, func(t *testing.T) {
			rules := health.NewRules()
			err := rules.Compile([]v1alpha1.HealthCheck{{Kind: "Boat", Ready: tc.ready}})
			if (err != nil) != tc.err {
				t.Fatalf("compile: %v", err)
			}
			if err != nil {
				return
			}
			if got, message := condition(rules, object, criterion{ready: tc.ready}); got != tc.want {
				t.Errorf("got %s (%s), want %s", got, message, tc.want)
			}
		})
	}
}

func TestIgnoredConditions(t *testing.T) {
	boat := func(conditions ...any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "sea.example/v1", "kind": "Boat", "status": map[string]any{"conditions": conditions},
		}}
	}
	object := boat(
		map[string]any{"type": "Ready", "status": "False", "reason": "NoCrew", "message": "waits for a crew"},
		map[string]any{"type": "Stalled", "status": "True", "message": "is aground"},
	)
	before := object.DeepCopy()
	ready, stalled := map[string]string{"type": "Ready", "status": "False"}, map[string]string{"type": "Stalled"}
	for name, tc := range map[string]struct {
		ignored []map[string]string
		checks  []v1alpha1.HealthCheck
		want    status.Status
	}{
		"none":                        {nil, nil, status.FailedStatus},
		"one":                         {[]map[string]string{stalled}, nil, status.InProgressStatus},
		"both":                        {[]map[string]string{stalled, ready}, nil, status.CurrentStatus},
		"another value":               {[]map[string]string{stalled, {"type": "Ready", "status": "Unknown"}}, nil, status.InProgressStatus},
		"a field that isn't there":    {[]map[string]string{stalled, {"type": "Ready", "other": "x"}}, nil, status.InProgressStatus},
		"a check still sees them all": {[]map[string]string{stalled, ready}, []v1alpha1.HealthCheck{{Kind: "Boat", Ready: "self.status.conditions.size() == 2"}}, status.CurrentStatus},
		"a check that fails":          {[]map[string]string{stalled, ready}, []v1alpha1.HealthCheck{{Kind: "Boat", Ready: "self.status.conditions.size() == 0"}}, status.InProgressStatus},
	} {
		t.Run(name, func(t *testing.T) {
			rules := health.NewRules()
			if err := rules.Compile(tc.checks); err != nil {
				t.Fatal(err)
			}
			rule := criterionFor(v1alpha1.Health{IgnoreConditions: tc.ignored, Checks: tc.checks}, RefOf(object))
			if got, message := condition(rules, object, rule); got != tc.want {
				t.Errorf("got %s (%s), want %s", got, message, tc.want)
			}
		})
	}
	if diff := cmp.Diff(before, object); diff != "" {
		t.Errorf("the object was changed (-before +after):\n%s", diff)
	}
	none := &unstructured.Unstructured{Object: map[string]any{"kind": "Boat", "status": "odd"}}
	if got := withoutConditions(none, `[{"type":"Ready"}]`); got != none {
		t.Error("an object without conditions is another one")
	}
}

func TestPodCacheBacksOff(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cache := newPodCache(func() time.Time { return now })
	id := ID{Kind: "Deployment", Name: "web"}
	var asked []time.Duration
	start := now
	for range 600 {
		if answer, ask := cache.get(id, start); ask {
			asked = append(asked, now.Sub(start))
			cache.put(id, answer)
		}
		now = now.Add(time.Second)
	}
	want := []time.Duration{0, 15 * time.Second, 45 * time.Second, 105 * time.Second, 225 * time.Second, 465 * time.Second}
	if !slices.Equal(asked, want) {
		t.Errorf("asked after %v, want %v", asked, want)
	}
	if _, ask := cache.get(id, now); !ask {
		t.Error("a new status is not asked about")
	}
}
