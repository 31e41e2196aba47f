package agent_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

// locals is a cluster's ConfigMaps and Secrets, by kind and name.
type locals struct {
	mu       sync.Mutex
	data     map[string]map[string]string
	followed []agent.LocalRef
	read     []agent.LocalRef
	changes  chan agent.LocalRef
}

func newLocals() *locals {
	return &locals{data: map[string]map[string]string{}, changes: make(chan agent.LocalRef)}
}

func (l *locals) set(kind, name string, data map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data[kind+" "+name] = data
}

func (l *locals) Read(_ context.Context, ref agent.LocalRef) (*unstructured.Unstructured, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = append(l.read, ref)
	data := l.data[ref.Kind+" "+ref.Name]
	if data == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: ref.Kind}, ref.Name)
	}
	stored := map[string]any{}
	for key, value := range data {
		if ref.Kind == "Secret" {
			value = base64.StdEncoding.EncodeToString([]byte(value))
		}
		stored[key] = value
	}
	return &unstructured.Unstructured{Object: map[string]any{"data": stored}}, nil
}

func (l *locals) Run(ctx context.Context)        { <-ctx.Done() }
func (l *locals) Changes() <-chan agent.LocalRef { return l.changes }

func (l *locals) Follow(refs []agent.LocalRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.followed = refs
}

func secretRef(name string, change ...func(*v1alpha1.VariablesSource)) v1alpha1.VariablesReference {
	source := &v1alpha1.VariablesSource{Name: name}
	for _, one := range change {
		one(source)
	}
	return v1alpha1.VariablesReference{SecretRef: source}
}

func configMapRef(name string) v1alpha1.VariablesReference {
	return v1alpha1.VariablesReference{ConfigMapRef: &v1alpha1.VariablesSource{Name: name}}
}

func TestVariablesFromTheCluster(t *testing.T) {
	t.Parallel()
	key := func(s *v1alpha1.VariablesSource) { s.Key = "PASSWORD" }
	prefix := func(s *v1alpha1.VariablesSource) { s.Prefix = "DB_" }
	optional := func(s *v1alpha1.VariablesSource) { s.Optional = true }
	tests := []struct {
		name      string
		text      string
		from      []v1alpha1.VariablesReference
		variables map[string]string
		want      string
		refused   string
	}{
		{name: "a ConfigMap", text: "${SITE}", from: []v1alpha1.VariablesReference{configMapRef("site")}, want: "07"},
		{name: "the later wins", text: "${SITE}", from: []v1alpha1.VariablesReference{configMapRef("site"), secretRef("db")}, want: "08"},
		{name: "the target wins", text: "${SITE}", from: []v1alpha1.VariablesReference{secretRef("db")}, variables: map[string]string{"SITE": "09"}, want: "09"},
		{name: "a Secret with a prefix", text: "${DB_PASSWORD}", from: []v1alpha1.VariablesReference{secretRef("db", prefix)}, want: "swordfish"},
		{name: "one key", text: "${PASSWORD} ${SITE:=none}", from: []v1alpha1.VariablesReference{secretRef("db", key)}, want: "swordfish none"},
		{name: "a literal stays one", text: "$${SITE}", from: []v1alpha1.VariablesReference{configMapRef("site")}, want: "${SITE}"},
		{name: "a value is no template", text: "${TEMPLATE}", from: []v1alpha1.VariablesReference{configMapRef("site")}, want: "${SITE}"},
		{name: "optional and absent", text: "${SITE:=none}", from: []v1alpha1.VariablesReference{secretRef("gone", optional)}, want: "none"},
		{name: "optional key, absent", text: "${X:=none}", from: []v1alpha1.VariablesReference{secretRef("db", optional, func(s *v1alpha1.VariablesSource) { s.Key = "X" })}, want: "none"},
		{name: "absent", text: "${SITE}", from: []v1alpha1.VariablesReference{secretRef("gone")}, refused: "v1 Secret apps/gone is not there"},
		{name: "key absent", text: "${X}", from: []v1alpha1.VariablesReference{secretRef("db", func(s *v1alpha1.VariablesSource) { s.Key = "X" })}, refused: `v1 Secret apps/db has no key "X"`},
		{name: "key that is no name", text: "a", from: []v1alpha1.VariablesReference{secretRef("db", func(s *v1alpha1.VariablesSource) { s.Key = "tls.crt" })}, refused: "makes no name for a variable"},
		{name: "not there", text: "${MISSING}", from: []v1alpha1.VariablesReference{configMapRef("site")}, refused: "MISSING"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w, source := newWorld(t), newLocals()
			source.set("ConfigMap", "site", map[string]string{"SITE": "07", "TEMPLATE": "${SITE}", "not-a-name": "x"})
			source.set("Secret", "db", map[string]string{"PASSWORD": "swordfish", "SITE": "08", "tls.crt": "x"})
			web := w.bundle("web", test.text)
			web.VariablesFrom, web.Variables = test.from, test.variables
			w.publish(target(1, web))
			result := w.sync(func(config *agent.Config) { config.Local = source })
			got := result.Report.Bundles[0]
			if test.refused != "" {
				if got.Reason != string(agent.ReasonVariableMissing) || !strings.Contains(got.Message, test.refused) {
					t.Errorf("%s: %s; want %q", got.Reason, got.Message, test.refused)
				}
				return
			}
			if diff := cmp.Diff([]string{test.want}, w.deployer.text("web")); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", got.State, got.Message, diff)
			}
		})
	}
}

func TestChangedSecretIsAppliedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := newLocals()
		source.set("Secret", "db", map[string]string{"PASSWORD": "swordfish"})
		web := w.bundle("web", "${PASSWORD}")
		web.VariablesFrom, web.ServiceAccount = []v1alpha1.VariablesReference{secretRef("db")}, "team-a"
		web.Windows = nightly // it is no new version
		w.publish(target(1, web, w.bundle("other", "1")))
		w.run(func(*agent.Agent) {
			ref := agent.LocalRef{Kind: "Secret", Namespace: "apps", Name: "db", ServiceAccount: "team-a"}
			if diff := cmp.Diff([]agent.LocalRef{ref}, source.followed); diff != "" {
				t.Fatalf("followed (-want +got):\n%s", diff)
			}
			w.expect("web", "Ready Ready", "swordfish")
			w.deployer.took()
			source.set("Secret", "db", map[string]string{"PASSWORD": "trout"})
			source.changes <- ref
			w.settle()
			w.expect("web", "Ready Ready", "trout")
			if diff := cmp.Diff([]string{"deploy web"}, w.deployer.took()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			// Gone, it refuses the bundle; back, it is taken at once.
			source.set("Secret", "db", nil)
			source.changes <- ref
			w.settle()
			w.expect("web", "Refused VariableMissing", "trout")
			source.set("Secret", "db", map[string]string{"PASSWORD": "cod"})
			source.changes <- ref
			w.settle()
			w.expect("web", "Ready Ready", "cod")
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Local = source })
	})
}

// Nothing secret in logs, status, events, reports or state.
func TestSecretsShowNowhere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const secret, inValues = "swordfish-1234", "trout-5678"
		source, told, reports := newLocals(), &teller{}, &recorder{}
		source.set("Secret", "db", map[string]string{"PASSWORD": secret, "values.yaml": "db: {password: " + inValues + "}"})
		web := w.bundle("web", "${PASSWORD}")
		web.VariablesFrom = []v1alpha1.VariablesReference{secretRef("db")}
		w.deployer.fail["web"] = fmt.Errorf("replicas: Invalid value: %q, and %q", secret, inValues)
		w.publish(target(1, web))
		w.run(func(a *agent.Agent) {
			time.Sleep(time.Minute)
			synctest.Wait()
			w.expect("web", "Failed ApplyFailed")
			explanation, err := a.Explain(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			shown, err := json.Marshal([]any{explanation, w.cluster.now(), told.events, reports.signed})
			if err != nil {
				t.Fatal(err)
			}
			if len(told.events) == 0 || len(reports.signed) == 0 || !strings.Contains(string(shown), "Invalid value") {
				t.Fatalf("the failure is not told: %s", shown)
			}
			for _, planted := range []string{secret, inValues, base64.StdEncoding.EncodeToString([]byte(secret))} {
				for where, text := range map[string]string{"status, events or reports": string(shown), "the log": w.log.String(), "the state": w.written()} {
					if strings.Contains(text, planted) {
						t.Errorf("%s shows %s", where, planted)
					}
				}
			}
		}, trusting, every(time.Hour), func(config *agent.Config) {
			config.Local, config.Events, config.Signer = source, told, reports
		})
	})
}

// recorder is a status key that keeps what it signs.
type recorder struct {
	mu     sync.Mutex
	signed []string
}

func (r *recorder) SignEnvelope(_ context.Context, _ string, payload []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signed = append(r.signed, string(payload))
	return payload, nil
}

// written is everything in the state folder but its content.
func (w *world) written() string {
	w.t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(w.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.Contains(path, "/content/") {
			return err
		}
		data, err := os.ReadFile(path)
		text.Write(data)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return text.String()
}

// teller keeps the events that it is given.
type teller struct {
	mu     sync.Mutex
	events []agent.Event
}

func (t *teller) Emit(_ context.Context, events []agent.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, events...)
	return nil
}

func TestEventsAreWrittenAfterTheBundles(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		told := &teller{}
		w.deployer.fail["web"] = errors.New("denied")
		w.publish(target(1, w.bundle("web", "1"), w.bundle("db", "1")))
		w.run(func(a *agent.Agent) {
			w.settle()
			time.Sleep(24 * time.Hour) // tried again for a day: that is one event
			synctest.Wait()
			w.publishAs(target(2), nil)
			w.publish(target(1, w.bundle("web", "2"))) // equivocation
			a.Hint()
			w.settle()
			w.settle()
		}, trusting, every(time.Hour), func(config *agent.Config) { config.Events = told })
		var got []string
		for _, event := range told.events {
			got = append(got, event.Bundle+" "+string(event.Reason))
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{" Equivocation", " TargetTaken", "web ApplyFailed"}, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}
