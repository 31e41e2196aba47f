package agent

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func TestScope(t *testing.T) {
	t.Parallel()
	team := &v1alpha1.Restrict{Namespaces: []string{"team-a-*"}, ServiceAccount: "team-a"}
	tests := []struct {
		name      string
		restrict  *v1alpha1.Restrict
		limits    []v1alpha1.Limit
		namespace string // the bundle's
		account   string // the bundle's
		objects   string
		want      string // part of the error; none allows
		runsAs    string
	}{
		{name: "nothing is restricted", namespace: "x", objects: "v1 Node n, v1 ConfigMap kube-system/c"},
		{name: "within", restrict: team, namespace: "team-a-web", objects: "v1 ConfigMap c, v1 ConfigMap team-a-x/c", runsAs: "team-a"},
		{name: "the bundle's namespace", restrict: team, namespace: "kube-system", want: `"kube-system"`},
		{name: "an object's namespace", restrict: team, namespace: "team-a-web", objects: "v1 ConfigMap kube-system/c", want: "kube-system"},
		{name: "cluster-scoped", restrict: team, namespace: "team-a-web", objects: "v1 Node n", want: "cluster-scoped"},
		{name: "its own namespace", restrict: team, namespace: "team-a-web", objects: "v1 Namespace team-a-web", want: "cluster-scoped"},
		{name: "another service account", restrict: team, namespace: "team-a-web", account: "admin", want: `"admin"`},
		{name: "the service account", restrict: team, namespace: "team-a-web", account: "team-a", runsAs: "team-a"},
		{
			name: "a local limit narrows", restrict: team, namespace: "team-a-web", objects: "v1 ConfigMap team-a-x/c",
			limits: []v1alpha1.Limit{{Source: "plat*", Namespaces: []string{"team-a-web"}}}, want: "team-a-x",
		},
		{
			name: "a local limit cannot be widened", namespace: "x",
			limits: []v1alpha1.Limit{{Source: "*", Namespaces: []string{"y"}}}, want: `"x"`,
		},
		{
			name: "a local limit allows cluster-scoped kinds", namespace: "x", objects: "v1 Node n",
			limits: []v1alpha1.Limit{{Source: "*", ClusterScoped: true}},
		},
		{
			name: "a local limit on namespaces alone", namespace: "x", objects: "v1 Node n",
			limits: []v1alpha1.Limit{{Source: "*", Namespaces: []string{"x"}}}, want: "cluster-scoped",
		},
		{
			name: "the first limit that matches holds", namespace: "x", objects: "v1 Node n",
			limits: []v1alpha1.Limit{{Source: "other"}, {Source: "platform", ClusterScoped: true}, {Source: "*"}},
		},
		{
			name: "the local service account wins", restrict: team, namespace: "team-a-web",
			limits: []v1alpha1.Limit{{Source: "*", ServiceAccount: "edge"}}, want: `"team-a"`,
		},
	}
	clusterKind := func(kind schema.GroupVersionKind) bool { return kind.Kind == "Node" || kind.Kind == "Namespace" }
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bundle := bundleNamed("web")
			bundle.Namespace, bundle.Restrict, bundle.ServiceAccount = test.namespace, test.restrict, test.account
			bundle.Source.Name = "platform"
			scope, err := newScope(&bundle, test.limits)
			if err == nil {
				err = scope.Check(objectsOf(test.objects), bundle.Namespace, clusterKind)
			}
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			case err == nil && scope.ServiceAccount != test.runsAs:
				t.Errorf("runs as %q, want %q", scope.ServiceAccount, test.runsAs)
			}
		})
	}
}

func objectsOf(list string) []*unstructured.Unstructured {
	var objects []*unstructured.Unstructured
	for line := range strings.SplitSeq(list, ",") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		object := &unstructured.Unstructured{}
		object.SetAPIVersion(fields[0])
		object.SetKind(fields[1])
		if namespace, name, found := strings.Cut(fields[2], "/"); found {
			object.SetNamespace(namespace)
			object.SetName(name)
		} else {
			object.SetName(fields[2])
		}
		objects = append(objects, object)
	}
	return objects
}

func TestGlob(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "b", false},
		{"*", "", true},
		{"*", "anything", true},
		{"team-*", "team-a", true},
		{"team-*", "steam-a", false},
		{"*-a", "team-a", true},
		{"*-a", "team-a-b", false},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "acb", false},
		{"ab*ba", "aba", false},
		{strings.Repeat("*a", 30), strings.Repeat("a", 29), false},
	}
	for _, test := range tests {
		if got := glob(test.pattern, test.name); got != test.want {
			t.Errorf("glob(%q, %q) = %v, want %v", test.pattern, test.name, got, test.want)
		}
	}
}

// A restricted source doesn't say how privileged the pods of its namespace may be.
func TestScopeOfNamespaceLabels(t *testing.T) {
	t.Parallel()
	labels := v1alpha1.DeployOptions{NamespaceLabels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}
	bundle := v1alpha1.TargetBundle{Namespace: "team-a", Source: v1alpha1.SourceIdentity{Name: "team"}, DeployOptions: labels}
	if _, err := newScope(&bundle, nil); err != nil {
		t.Errorf("nothing is restricted: %v", err)
	}
	if _, err := newScope(&bundle, []v1alpha1.Limit{{Source: "team"}}); err == nil || !strings.Contains(err.Error(), "namespaceLabels") {
		t.Errorf("limited by the agent: got %v", err)
	}
	bundle.Restrict = &v1alpha1.Restrict{Namespaces: []string{"team-*"}}
	if _, err := newScope(&bundle, nil); err == nil || !strings.Contains(err.Error(), "namespaceLabels") {
		t.Errorf("restricted by the target: got %v", err)
	}
}
