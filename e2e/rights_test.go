package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// The agent of deploy/tenants does everything with the rights that are shipped there, and nothing more.
func TestTenantsRights(t *testing.T) {
	ctx := t.Context()
	cluster := newCluster(t, "tenants")
	fleet := newFleet(t, registry.Addr)
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pinnace-system"}}
	team := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Namespace: "team-a"}}
	own := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "pinnace-agent", Namespace: "pinnace-system"}}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Namespace: "team-a"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "apps"}, Resources: []string{"configmaps", "secrets", "deployments", "pods"}, Verbs: []string{"*"}},
	}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "team-a", Namespace: "team-a"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "team-a"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "team-a", Namespace: "team-a"}},
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "local", Namespace: "team-a"}, StringData: map[string]string{"COLOR": "green"}}
	for _, object := range []client.Object{system, team, account, own, role, binding, secret} {
		ok(t, cluster.Client.Create(ctx, object))
	}
	for _, file := range []string{"tenants/rbac.yaml", "crd/bundledeployments.yaml"} {
		for _, object := range readObjects(t, filepath.Join("..", "deploy", file)) {
			ok(t, cluster.Client.Create(ctx, object))
		}
	}
	for _, example := range []string{"clock", "sensors", "shop", "site", "telemetry"} {
		ok(t, fleet.Remove("bundles/"+example))
	}
	bundle := strings.Replace(fmt.Sprintf(operated, "team-a", "  serviceAccount: team-a\n  variablesFrom: [{secretRef: {name: local}}]\n"), "name: team-a}", "name: app}", 1)
	ok(t, fleet.Write("bundles/app/pinnace.yaml", bundle))
	ok(t, fleet.Write("bundles/app/web.yaml", workload("web", "1", true)))
	ok(t, fleet.Write("bundles/app/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {color: '${COLOR}'}\n"))
	commit(t, fleet, "A tenant")
	publish(t, fleet)

	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Name: "ship-7", Change: func(config *v1alpha1.AgentConfig) {
		config.Spec.Kubeconfig = kubeconfigOf(t, cluster, own)
		config.Spec.Limits = []v1alpha1.Limit{{Source: "*", Namespaces: []string{"team-*"}, ServiceAccount: "team-a"}}
	}})
	start(t, agent)
	ok(t, cluster.WaitReady(ctx, "app"))
	if got := configMap(t, cluster, "team-a", "app")["color"]; got != "green" {
		t.Errorf("color: got %q, want that of the Secret", got)
	}
	ok(t, cluster.WaitRecreated(ctx, &corev1.ConfigMap{}, "team-a", "app"))
	get(t, cluster, secret, "team-a", "local")
	secret.StringData = map[string]string{"COLOR": "blue"}
	ok(t, cluster.Client.Update(ctx, secret))
	ok(t, agent.WaitLog(ctx, "what the bundle reads changed"))
	log, err := agent.Log()
	ok(t, err)
	if strings.Contains(log, "forbidden") {
		t.Errorf("something that the agent does is not allowed:\n%s", last(log, 4000))
	}

	// What it doesn't need it may not.
	for _, not := range []authorizationv1.ResourceAttributes{
		{Namespace: "team-a", Verb: "create", Resource: "configmaps"},
		{Namespace: "team-a", Verb: "get", Resource: "secrets"},
		{Verb: "impersonate", Resource: "users"},
		{Namespace: "kube-system", Verb: "impersonate", Resource: "serviceaccounts", Name: "default"},
		{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
		{Namespace: "team-a", Verb: "delete", Group: "apps", Resource: "deployments"},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:pinnace-system:pinnace-agent", ResourceAttributes: &not,
		}}
		ok(t, cluster.Client.Create(ctx, review))
		if review.Status.Allowed {
			t.Errorf("the agent itself may %s %s %s", not.Verb, not.Resource, not.Namespace)
		}
	}
}

// kubeconfigOf writes a kubeconfig with a token of the account.
func kubeconfigOf(t *testing.T, cluster *harness.Cluster, account *corev1.ServiceAccount) string {
	t.Helper()
	seconds := int64(time.Hour / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	ok(t, cluster.Client.SubResource("token").Create(t.Context(), account, request))
	config, err := clientcmd.LoadFromFile(cluster.Kubeconfig)
	ok(t, err)
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: request.Status.Token}
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	ok(t, clientcmd.WriteToFile(*config, path))
	return path
}

func readObjects(t *testing.T, path string) []client.Object {
	t.Helper()
	data, err := os.ReadFile(path)
	ok(t, err)
	decoder := yamlstream.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var objects []client.Object
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		ok(t, err)
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}
