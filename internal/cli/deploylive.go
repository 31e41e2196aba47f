package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/preview"
)

// clusterFlags say which API server is asked.
type clusterFlags struct {
	kubeconfig string
	context    string
}

func (f clusterFlags) given() bool { return f.kubeconfig != "" || f.context != "" }

func (f clusterFlags) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context}).ClientConfig()
	if err != nil {
		return nil, usagef("find the cluster: %w; name its kubeconfig with --kubeconfig, and its context with --context", err)
	}
	return config, nil
}

// rehearse shows what applying a bundle would change on a cluster, by its API server's word, and changes nothing.
func (s *session) rehearse(ctx context.Context, config *rest.Config, deployment publish.Deployment) error {
	applier, err := apply.New(config, apply.Options{})
	if err != nil {
		return err
	}
	bundle := apply.Bundle{Name: deployment.Bundle.Name, Namespace: deployment.Bundle.Namespace}
	if deployment.Bundle.Method == v1alpha1.MethodRelease {
		bundle.Manager = apply.HelmManager
	}
	defined := definedKinds(deployment.Objects)
	var before, after []*unstructured.Unstructured
	refused, untried := 0, 0
	for _, object := range deployment.Objects {
		compared, err := applier.Rehearse(ctx, bundle, object)
		switch {
		case meta.IsNoMatchError(err) && defined[object.GroupVersionKind().Group+"/"+object.GetKind()]:
			untried++
			s.message(markWarning, "%s %s %s is not tried: its definition comes with the bundle", object.GetAPIVersion(), object.GetKind(), object.GetName())
			continue
		case err != nil && !answered(err):
			return exitcode.With(exitcode.Unreachable, err)
		case err != nil:
			refused++
			s.message(markFailed, "%v", err)
			continue
		}
		if compared.Live != nil {
			before = append(before, bare(compared.Live))
		}
		after = append(after, bare(compared.Merged))
	}
	var mask preview.Mask
	changes := preview.Compare(before, after, &mask)
	colour := isTerminal(s.Out) && os.Getenv("NO_COLOR") == ""
	for _, change := range changes {
		if err := s.printf("%s: %s\n%s", change, change.Action, indent(change.Diff, colour)); err != nil {
			return err
		}
	}
	s.message(markDone, "%s: %s", config.Host, rehearsed(changes, len(deployment.Objects)-refused-untried, refused, untried))
	switch {
	case refused > 0:
		return codef(exitcode.Partial, "the API server refuses %s of bundle %s", count(refused, "object"), deployment.Bundle.Name)
	case len(changes) > 0:
		return errDifferent
	}
	return nil
}

// answered reports whether an error is the API server's answer, or what follows from it.
func answered(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) || meta.IsNoMatchError(err)
}

func rehearsed(changes []preview.Change, tried, refused, untried int) string {
	added := 0
	for _, change := range changes {
		if change.Action == preview.Added {
			added++
		}
	}
	text := fmt.Sprintf("%d added, %d changed, %d unchanged", added, len(changes)-added, tried-len(changes))
	if refused > 0 {
		text += fmt.Sprintf(", %d refused", refused)
	}
	if untried > 0 {
		text += fmt.Sprintf(", %d not tried", untried)
	}
	return text
}

// bare is an object without what only the server says of it.
func bare(object *unstructured.Unstructured) *unstructured.Unstructured {
	out := object.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(out.Object, "status")
	return out
}

// definedKinds are the kinds, with their groups, that definitions among the objects bring.
func definedKinds(objects []*unstructured.Unstructured) map[string]bool {
	defined := map[string]bool{}
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(object.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(object.Object, "spec", "names", "kind")
		defined[group+"/"+cmp.Or(kind, object.GetName())] = true
	}
	return defined
}
