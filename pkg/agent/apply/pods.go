package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// mostPods bounds how many pods of a workload are read for their reasons, mostEvents how many warnings of a namespace.
const (
	mostPods   = 50
	mostEvents = 500
)

var podMapping = Mapping{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"}, Kind: "Pod", Namespaced: true,
}

var eventMapping = Mapping{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "events"}, Kind: "Event", Namespaced: true,
}

// workloads have pods by a selector at spec.selector.
var workloads = map[schema.GroupKind]bool{
	{Group: "apps", Kind: "Deployment"}: true, {Group: "apps", Kind: "StatefulSet"}: true,
	{Group: "apps", Kind: "DaemonSet"}: true, {Group: "batch", Kind: "Job"}: true,
}

// podCache keeps what pods said, so that a workload that is broken for long costs little: it is asked again after
// 15 s, then half as often each time, up to every 5 min.
type podCache struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[ID]podAnswer
}

type podAnswer struct {
	text  string
	since time.Time // of the workload's status, so that a new one asks anew
	next  time.Time
	gap   time.Duration
}

func newPodCache(now func() time.Time) *podCache { return &podCache{now: now, of: map[ID]podAnswer{}} }

// get returns the kept answer, and whether it is time to ask again.
func (c *podCache) get(id ID, since time.Time) (podAnswer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, ok := c.of[id]
	if !ok || !answer.since.Equal(since) {
		return podAnswer{since: since}, true
	}
	return answer, !c.now().Before(answer.next)
}

func (c *podCache) put(id ID, answer podAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer.gap = min(max(2*answer.gap, 15*time.Second), 5*time.Minute)
	answer.next = c.now().Add(answer.gap)
	c.of[id] = answer
}

// keep forgets the answers of workloads that are not broken any more.
func (c *podCache) keep(entries map[ID]entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.of {
		if e, ok := entries[id]; ok && e.status == status.CurrentStatus {
			delete(c.of, id)
		}
	}
}

// explain adds to problems of workloads why their pods wait. Failures to find out are passed over: the problem stands
// without.
func (a *Applier) explain(ctx context.Context, client *client, problems []v1alpha1.Problem, entries map[ID]entry) {
	a.pods.keep(entries)
	byName := map[string]*v1alpha1.Problem{}
	for i := range problems {
		byName[problems[i].Object] = &problems[i]
	}
	for id, e := range entries {
		problem := byName[e.ref.String()]
		if problem == nil || !workloads[id.groupKind()] || e.print == 0 || a.options.Now().Sub(e.since) < explainAfter {
			continue
		}
		answer, ask := a.pods.get(id, e.since)
		if ask {
			text, err := a.askPods(ctx, client, e.ref)
			if err != nil {
				continue
			}
			answer.text = text
			a.pods.put(id, answer)
		}
		if answer.text != "" {
			problem.Message = oneLine(strings.TrimSuffix(problem.Message, ".") + "; " + answer.text)
		}
	}
}

func (a *Applier) askPods(ctx context.Context, client *client, ref Ref) (string, error) {
	mapping, err := a.kinds.Mapping(ctx, ref)
	if err != nil {
		return "", err
	}
	workload, err := client.get(ctx, mapping, ref.Namespace, ref.Name, false)
	if err != nil {
		return "", err
	}
	selector, err := podSelector(workload)
	if err != nil || selector == "" {
		return "", err
	}
	var pods []*unstructured.Unstructured
	_, err = client.list(ctx, podMapping, ref.Namespace, selection{labels: selector}, false, mostPods,
		func(pod *unstructured.Unstructured) { pods = append(pods, pod) })
	if err != nil {
		return "", err
	}
	silent := func(pod *unstructured.Unstructured) bool {
		reason, _ := podReason(pod)
		return reason == "" && !podReady(pod)
	}
	var warnings map[string]warning
	if slices.ContainsFunc(pods, silent) {
		warnings, err = podWarnings(ctx, client, ref.Namespace)
		if err != nil && !apierrors.IsForbidden(err) { // a tenant's account may see pods and no events
			return "", err
		}
	}
	return waiting(pods, warnings), nil
}

// warning is what an event tells of a pod.
type warning struct {
	reason, message string
	at              time.Time
}

// podWarnings returns the last warning about each pod of a namespace.
func podWarnings(ctx context.Context, client *client, namespace string) (map[string]warning, error) {
	last := map[string]warning{}
	of := selection{fields: "type=Warning,involvedObject.kind=Pod"}
	_, err := client.list(ctx, eventMapping, namespace, of, false, mostEvents, func(event *unstructured.Unstructured) {
		pod, _, _ := unstructured.NestedString(event.Object, "involvedObject", "name")
		next := warning{at: event.GetCreationTimestamp().Time}
		next.reason, _, _ = unstructured.NestedString(event.Object, "reason")
		next.message, _, _ = unstructured.NestedString(event.Object, "message")
		if seen, _, _ := unstructured.NestedString(event.Object, "lastTimestamp"); seen != "" {
			if at, err := time.Parse(time.RFC3339, seen); err == nil {
				next.at = at
			}
		}
		if before, ok := last[pod]; !ok || !next.at.Before(before.at) {
			last[pod] = next
		}
	})
	return last, err
}

func podReady(pod *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(condition any) bool {
		fields, ok := condition.(map[string]any)
		return ok && fields["type"] == "Ready" && fields["status"] == "True"
	})
}

func podSelector(workload *unstructured.Unstructured) (string, error) {
	fields, ok, err := unstructured.NestedMap(workload.Object, "spec", "selector")
	if err != nil || !ok {
		return "", err
	}
	var parsed metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &parsed); err != nil {
		return "", err
	}
	return metav1.FormatLabelSelector(&parsed), nil
}

// waiting summarises why pods are not ready: "2 pods ImagePullBackOff (back-off pulling …)". A pod whose status gives no
// reason is told by its last warning, such as FailedMount or Unhealthy; pure.
func waiting(pods []*unstructured.Unstructured, warnings map[string]warning) string {
	counts, details := map[string]int{}, map[string]string{}
	for _, pod := range pods {
		reason, detail := podReason(pod)
		if reason == "" && !podReady(pod) {
			reason, detail = warnings[pod.GetName()].reason, warnings[pod.GetName()].message
		}
		if reason != "" {
			counts[reason]++
			if details[reason] == "" {
				details[reason] = detail
			}
		}
	}
	reasons := make([]string, 0, len(counts))
	for reason := range counts {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, reason := range reasons[:min(3, len(reasons))] {
		noun := "pods"
		if counts[reason] == 1 {
			noun = "pod"
		}
		part := fmt.Sprintf("%d %s %s", counts[reason], noun, reason)
		if details[reason] != "" {
			part += " (" + details[reason] + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// podReason returns the first reason that a pod gives for not being ready.
func podReason(pod *unstructured.Unstructured) (reason, detail string) {
	for _, list := range []string{"initContainerStatuses", "containerStatuses"} {
		containers, _, _ := unstructured.NestedSlice(pod.Object, "status", list)
		for _, container := range containers {
			fields, ok := container.(map[string]any)
			if !ok {
				continue
			}
			for _, state := range []string{"waiting", "terminated"} {
				reason, _, _ := unstructured.NestedString(fields, "state", state, "reason")
				if reason != "" && reason != "Completed" && reason != "PodInitializing" && reason != "ContainerCreating" {
					message, _, _ := unstructured.NestedString(fields, "state", state, "message")
					return reason, message
				}
			}
		}
	}
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	for _, condition := range conditions {
		fields, ok := condition.(map[string]any)
		if ok && fields["type"] == "PodScheduled" && fields["status"] == "False" {
			reason, _ := fields["reason"].(string)
			message, _ := fields["message"].(string)
			return reason, message
		}
	}
	return "", ""
}
