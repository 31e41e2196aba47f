package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/sealed"
)

// keyOf returns a cluster's key pair.
func keyOf(t testing.TB) (sealed.Identities, sealed.Recipients) {
	t.Helper()
	file, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	identities, err := sealed.ParseIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := sealed.ParseRecipients([]string{recipient})
	if err != nil {
		t.Fatal(err)
	}
	return identities, recipients
}

func opening(with ...sealed.Identities) func(*agent.Config) {
	return func(config *agent.Config) {
		config.Identities = func() (sealed.Identities, error) {
			if len(with) == 0 {
				return sealed.Identities{}, nil
			}
			return with[0], nil
		}
	}
}

// sealTo seals a variable of a bundle.
func sealTo(t testing.TB, to sealed.Recipients, bundle *v1alpha1.TargetBundle, binding sealed.Binding, value string) {
	t.Helper()
	data, err := sealed.Seal(to, binding, []any{value})
	if err != nil {
		t.Fatal(err)
	}
	bundle.Variables = map[string]string{"TEXT": "sealed"}
	bundle.Sealed = []v1alpha1.SealedValues{{Paths: []string{"/variables/TEXT"}, Data: data}}
}

const secretText = "correct horse battery staple"

func TestSealedValues(t *testing.T) {
	t.Parallel()
	mine, to := keyOf(t)
	stranger, _ := keyOf(t)
	mineToo := sealed.Binding{Cluster: clusterName, Namespace: "apps", Name: "web"}
	for _, test := range []struct {
		name    string
		with    sealed.Identities
		binding sealed.Binding
		path    string
		want    []string
		reason  agent.Reason
	}{
		{name: "opened", with: mine, binding: mineToo, want: []string{secretText}},
		{name: "with another key", with: stranger, binding: mineToo, reason: agent.ReasonNotOpened},
		{name: "without a key", binding: mineToo, reason: agent.ReasonNotOpened},
		{name: "of another cluster", with: mine, binding: sealed.Binding{Cluster: "factory-08", Namespace: "apps", Name: "web"}, reason: agent.ReasonNotOpened},
		{name: "of another bundle", with: mine, binding: sealed.Binding{Cluster: clusterName, Namespace: "apps", Name: "db"}, reason: agent.ReasonNotOpened},
		{name: "for a place that is not there", with: mine, binding: mineToo, path: "/variables/OTHER", reason: agent.ReasonNotOpened},
		{name: "for no place", with: mine, binding: mineToo, path: "/serviceAccount", reason: agent.ReasonNotOpened},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			web := w.bundleOf("web", releaseKey().signer, map[string][]byte{"a.yaml": []byte(configMaps("web", "${TEXT}"))})
			sealTo(t, to, &web, test.binding, secretText)
			if test.path != "" {
				web.Sealed[0].Paths[0] = test.path
			}
			w.publish(target(1, web))
			result := w.sync(opening(test.with))
			if diff := cmp.Diff(test.want, w.deployer.text("web")); diff != "" {
				t.Errorf("applied (-want +got):\n%s", diff)
			}
			if got := result.Report.Bundles[0].Reason; test.reason != "" && got != string(test.reason) {
				t.Errorf("reason %s, want %s", got, test.reason)
			}
			showsNothing(t, w, result)
		})
	}
}

// showsNothing fails when the secret stands in a log, a report, a BundleDeployment or on the disk.
func showsNothing(t *testing.T, w *world, result agent.Result) {
	t.Helper()
	for place, text := range map[string]string{
		"log": w.log.String(), "report": fmt.Sprintf("%+v", result.Report), "BundleDeployments": fmt.Sprintf("%+v", w.cluster.now()),
	} {
		if strings.Contains(text, secretText) {
			t.Errorf("the %s shows the secret", place)
		}
	}
	err := filepath.WalkDir(w.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secretText) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// An API server quotes the value that it refuses; the agent's own texts must not.
func TestSecretsStayOutOfErrors(t *testing.T) {
	t.Parallel()
	with, to := keyOf(t)
	w := newWorld(t)
	web := w.bundleOf("web", releaseKey().signer, map[string][]byte{"a.yaml": []byte(configMaps("web", "${TEXT}"))})
	sealTo(t, to, &web, sealed.Binding{}, secretText)
	w.publish(target(1, web))
	w.deployer.fail["web"] = &agent.Error{
		Stage: agent.StageApply, Reason: agent.ReasonApplyFailed, Err: errors.New(`spec: Invalid value: "` + secretText + `"`),
	}
	result := w.sync(opening(with), func(config *agent.Config) {
		config.Deployers = map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: echo{w.deployer}}
	})
	if state := result.Report.Bundles[0].State; state != v1alpha1.StateFailed {
		t.Errorf("state %s, want %s", state, v1alpha1.StateFailed)
	}
	showsNothing(t, w, result)
}

// echo is a cluster whose API server quotes what it refuses.
type echo struct{ *deployer }

func (e echo) Deploy(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	return apply.Result{}, fmt.Errorf("Invalid value: %v", deployment.Objects[0].Object)
}

// A container that fails may say its password, and Kubernetes repeats what it says.
func TestSecretsStayOutOfHealth(t *testing.T) {
	t.Parallel()
	with, to := keyOf(t)
	w := newWorld(t)
	web := w.bundleOf("web", releaseKey().signer, map[string][]byte{"a.yaml": []byte(configMaps("web", "${TEXT}"))})
	web.Health.Timeout.Duration = time.Millisecond
	sealTo(t, to, &web, sealed.Binding{}, secretText)
	w.publish(target(1, web))
	result := w.sync(opening(with), func(config *agent.Config) {
		config.Deployers = map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: babbling{w.deployer}}
	})
	bundle := result.Report.Bundles[0]
	if bundle.State != v1alpha1.StateFailed || len(bundle.Problems) != 1 || !strings.Contains(bundle.Problems[0].Message, "cannot log in with ***") {
		t.Errorf("reported: %+v", bundle)
	}
	showsNothing(t, w, result)
}

// babbling is a cluster whose containers say what they know.
type babbling struct{ *deployer }

func (b babbling) Health(context.Context, agent.Deployment) (apply.Health, error) {
	return apply.Health{Total: 1, Failed: true, Problems: []v1alpha1.Problem{
		{Object: "v1 Pod apps/web", Reason: "CrashLoopBackOff", Message: "cannot log in with " + secretText},
	}}, nil
}

func TestSealedSecretObject(t *testing.T) {
	t.Parallel()
	with, to := keyOf(t)
	data, err := sealed.Seal(to, sealed.Binding{Namespace: "apps", Name: "db"}, []any{secretText})
	if err != nil {
		t.Fatal(err)
	}
	indented := strings.ReplaceAll(strings.TrimSpace(sealed.Armor(data)), "\n", "\n    ")
	w := newWorld(t)
	web := w.bundleOf("web", releaseKey().signer, map[string][]byte{"a.yaml": []byte(
		"apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData:\n  password: |\n    " + indented + "\n",
	)})
	w.publish(target(1, web))
	seen := &seeing{deployer: w.deployer}
	result := w.sync(opening(with), func(config *agent.Config) {
		config.Deployers = map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: seen}
	})
	if diff := cmp.Diff(map[string]any{"password": secretText}, seen.stringData); diff != "" {
		t.Errorf("stringData (-want +got):\n%s", diff)
	}
	showsNothing(t, w, result)
}

// seeing keeps what was applied of a Secret.
type seeing struct {
	*deployer
	stringData any
}

func (s *seeing) Deploy(ctx context.Context, deployment agent.Deployment) (apply.Result, error) {
	s.stringData = deployment.Objects[0].Object["stringData"]
	return s.deployer.Deploy(ctx, deployment)
}
