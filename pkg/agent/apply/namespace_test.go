package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
)

// The labels of a bundle's namespace are set whoever made it, follow the bundle, and touch nobody else's.
func TestNamespaceLabels(t *testing.T) {
	applier, _ := newApplier(t, Options{})
	mustApply(t, applier, Bundle{Name: "labels-ns", Objects: planetest.Parse(t,
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: labels-there, labels: {team: a}}")})
	metadata := func(name string) (labels, annotations map[string]string) {
		t.Helper()
		namespace, err := planetest.Admin(t, cluster).Resource(nss).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		labels = namespace.GetLabels()
		for _, name := range []string{"kubernetes.io/metadata.name", v1alpha1.LabelManagedBy, v1alpha1.LabelBundle} {
			delete(labels, name)
		}
		return labels, namespace.GetAnnotations()
	}
	const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	for _, test := range []struct {
		namespace, objects string
		labels             map[string]string
		want               map[string]string
	}{
		{"labels-new", object, map[string]string{"level": "baseline", "b": "1"}, map[string]string{"level": "baseline", "b": "1"}},
		{"labels-new", object, map[string]string{"level": "privileged"}, map[string]string{"level": "privileged"}},
		{"labels-there", object, map[string]string{"level": "baseline"}, map[string]string{"team": "a", "level": "baseline"}},
		{
			"labels-own", object + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: labels-own, labels: {mine: b}}\n",
			map[string]string{"level": "baseline"},
			map[string]string{"mine": "b"},
		},
	} {
		bundle := Bundle{Name: test.namespace, Namespace: test.namespace, Objects: planetest.Parse(t, test.objects)}
		bundle.Options.NamespaceLabels, bundle.Options.NamespaceAnnotations = test.labels, map[string]string{"note": test.labels["level"]}
		mustApply(t, applier, bundle)
		labels, annotations := metadata(test.namespace)
		if diff := cmp.Diff(test.want, labels); diff != "" {
			t.Errorf("%s: labels (-want +got):\n%s", test.namespace, diff)
		}
		if own := test.namespace == "labels-own"; (annotations["note"] == test.labels["level"]) == own {
			t.Errorf("%s: annotations %v", test.namespace, annotations)
		}
	}
}
