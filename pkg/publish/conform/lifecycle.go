package conform

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The lifecycle of an API version, as k8s.io/api states it.
type (
	introduced interface{ APILifecycleIntroduced() (major, minor int) }
	deprecated interface{ APILifecycleDeprecated() (major, minor int) }
	removed    interface{ APILifecycleRemoved() (major, minor int) }
	replaced   interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}
)

// leaving is the end of an API version whose types k8s.io/api doesn't have any more.
type leaving struct {
	minor   int // of the first version without it
	instead string
}

// gone is what https://kubernetes.io/docs/reference/using-api/deprecation-guide/ lists and k8s.io/api forgot.
var gone = map[schema.GroupVersionKind]leaving{
	{Group: "policy", Version: "v1beta1", Kind: "PodSecurityPolicy"}:                      {25, "the labels pod-security.kubernetes.io/enforce of namespaces"},
	{Group: "autoscaling", Version: "v2beta1", Kind: "HorizontalPodAutoscaler"}:           {25, "autoscaling/v2 HorizontalPodAutoscaler"},
	{Group: "autoscaling", Version: "v2beta2", Kind: "HorizontalPodAutoscaler"}:           {26, "autoscaling/v2 HorizontalPodAutoscaler"},
	{Group: "batch", Version: "v2alpha1", Kind: "CronJob"}:                                {21, "batch/v1 CronJob"},
	{Group: "apiregistration.k8s.io", Version: "v1beta1", Kind: "APIService"}:             {22, "apiregistration.k8s.io/v1 APIService"},
	{Group: "apiextensions.k8s.io", Version: "v1beta1", Kind: "CustomResourceDefinition"}: {22, "apiextensions.k8s.io/v1 CustomResourceDefinition"},
	{Group: "extensions", Version: "v1beta1", Kind: "PodSecurityPolicy"}:                  {16, "the labels pod-security.kubernetes.io/enforce of namespaces"},
	{Group: "auditregistration.k8s.io", Version: "v1alpha1", Kind: "AuditSink"}:           {19, "the audit policy of the API server"},
	{Group: "settings.k8s.io", Version: "v1alpha1", Kind: "PodPreset"}:                    {20, "a mutating webhook"},
}

func (l leaving) finding(of schema.GroupVersionKind) Finding {
	return Finding{Path: "apiVersion", Message: fmt.Sprintf("%s %s was removed from Kubernetes in 1.%d; use %s", of.GroupVersion(), of.Kind, l.minor, l.instead)}
}

func (s *Schemas) checkLifecycle(gvk schema.GroupVersionKind, typed any) []Finding {
	what := gvk.GroupVersion().String() + " " + gvk.Kind
	if since, is := typed.(introduced); is {
		if _, minor := since.APILifecycleIntroduced(); minor > s.minor {
			return []Finding{{Path: "apiVersion", Message: fmt.Sprintf("%s came with Kubernetes 1.%d; 1.%d doesn't know it", what, minor, s.minor)}}
		}
	}
	until, is := typed.(removed)
	if !is {
		return nil
	}
	_, minor := until.APILifecycleRemoved()
	if minor > s.minor {
		return nil
	}
	return []Finding{{Path: "apiVersion", Message: fmt.Sprintf("%s was removed from Kubernetes in 1.%d%s", what, minor, useInstead(typed))}}
}

// Deprecated says of what is served, but will not be for ever, since when that is known and what takes its place; the
// message is empty for everything else.
func (s *Schemas) Deprecated(object *unstructured.Unstructured) Finding {
	typed, err := own().New(object.GroupVersionKind())
	since, is := typed.(deprecated)
	if err != nil || !is || len(s.checkLifecycle(object.GroupVersionKind(), typed)) > 0 {
		return Finding{}
	}
	_, minor := since.APILifecycleDeprecated()
	if minor > s.minor {
		return Finding{}
	}
	message := fmt.Sprintf("%s %s is deprecated since Kubernetes 1.%d", object.GetAPIVersion(), object.GetKind(), minor)
	if until, is := typed.(removed); is {
		_, minor := until.APILifecycleRemoved()
		message += fmt.Sprintf(", and is removed in 1.%d", minor)
	}
	return Finding{Path: "apiVersion", Message: message + useInstead(typed)}
}

func useInstead(typed any) string {
	instead, is := typed.(replaced)
	if !is {
		return ""
	}
	gvk := instead.APILifecycleReplacement()
	return fmt.Sprintf("; use %s %s", gvk.GroupVersion(), gvk.Kind)
}
