package agentcli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// running starts an agent on the configuration's state folder, with one bundle on a cluster in memory, and its socket.
func running(t *testing.T, file string) {
	t.Helper()
	spec, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	state, err := agent.OpenState(spec.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	content, err := oci.OpenLayout(state.ContentDir())
	if err != nil {
		t.Fatal(err)
	}
	deployers := map[v1alpha1.Method]agent.Deployer{v1alpha1.MethodApply: memory{}}
	registry := oci.NewMemory()
	publish(t, registry, spec)
	setup := &setup{spec: spec, state: state, log: slog.New(slog.DiscardHandler), agent: agent.New(agent.Config{
		Fleet: spec.Fleet, Cluster: spec.Cluster, Registries: []oci.Registry{registry}, State: state, Content: content,
		Verifier: refusing{Verifier: signing.TrustAllUnsafe()}, Deployers: deployers,
	})}
	ctx, cancel := context.WithCancelCause(context.Background())
	endpoints, err := serve(setup, cancel)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- setup.agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel(nil)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := errors.Join(endpoints.close(), state.Close()); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); !setup.agent.Ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent has no target in force")
		}
	}
}

// publish pushes a target with one bundle.
func publish(t *testing.T, registry oci.Registry, spec v1alpha1.AgentSpec) {
	t.Helper()
	push := func(name string, artifact oci.Artifact, tags ...string) string {
		repo, err := registry.Repository(name)
		if err != nil {
			t.Fatal(err)
		}
		desc, _, err := oci.Push(t.Context(), repo, artifact, tags...)
		if err != nil {
			t.Fatal(err)
		}
		return desc.Digest.String()
	}
	encode := func(value any) []byte {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	layer, err := archive.Pack("", map[string][]byte{
		"a.yaml": []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"),
	}, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	blob := oci.Blob{MediaType: v1alpha1.MediaTypeBundleContent, Data: layer}
	digest := push("bundles/web", oci.Artifact{
		Type: v1alpha1.ArtifactTypeBundle, Layers: []oci.Blob{blob},
		Config: oci.Blob{MediaType: v1alpha1.MediaTypeBundleConfig, Data: encode(v1alpha1.BundleConfig{
			TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundleConfig},
			Name:     "web", Method: v1alpha1.MethodApply, Source: v1alpha1.SourceIdentity{Name: "platform"},
		})},
	})
	push(v1alpha1.TargetRepository(spec.Cluster), oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget,
		Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: encode(v1alpha1.Target{
			TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget},
			Fleet:    spec.Fleet, Cluster: spec.Cluster, Generation: 3,
			IssuedAt: metav1.NewTime(time.Now().Add(-time.Minute)), ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour)),
			Bundles: []v1alpha1.TargetBundle{{
				Name: "web", Repository: "bundles/web", Digest: digest, LayerDigest: blob.Descriptor().Digest.String(),
				Method: v1alpha1.MethodApply, Namespace: "apps", Source: v1alpha1.SourceIdentity{Name: "platform"},
			}},
		})}},
	}, v1alpha1.TagCurrent)
}

// memory is a cluster that takes everything.
type memory struct{}

func (memory) Deploy(_ context.Context, deployment agent.Deployment) (apply.Result, error) {
	inventory := apply.Inventory{{APIVersion: "v1", Kind: "ConfigMap", Namespace: "apps", Name: "a"}}
	return apply.Result{Inventory: inventory}, deployment.Record(inventory)
}

func (memory) Remove(context.Context, agent.Deployment) (apply.Result, error) {
	return apply.Result{}, nil
}

func (memory) Health(context.Context, agent.Deployment) (apply.Health, error) {
	return apply.Health{Ready: 1, Total: 1}, nil
}

func (memory) Applied(context.Context, agent.Deployment) (apply.Bundle, error) {
	return apply.Bundle{}, nil
}

// configured writes a configuration whose state folder has a path that is short enough for a socket.
func configured(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pinnace") //nolint:usetesting // the test's name makes t.TempDir too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(agentYAML(complete)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCommandsReachTheRunningAgent(t *testing.T) {
	t.Parallel()
	file := configured(t)
	running(t, file)
	spec, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(spec.StateDir, socketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v; want mode 0600", info.Mode(), err)
	}
	tests := []struct {
		args []string
		code int
		want []string // on stdout, or stderr when the code is not 0
	}{
		{[]string{"why", "web"}, 0, []string{
			"bundle web is Ready (Ready) since", "target generation 3, sha256:", "wanted sha256:", "of bundles/web, from source platform",
			"runs that, in namespace apps", "held back no", "health 1 of 1 objects are ready", "drift none",
		}},
		{[]string{"why", "web", "-o", "json"}, 0, []string{`"state": "Ready"`, `"generation": 3`}},
		{[]string{"why", "shop"}, exitcode.NotFound, []string{`bundle "shop" is not on this cluster; it has web`}},
		{[]string{"status"}, 0, []string{"acme/factory-07: target generation 3; a registry answered", "web", "Ready"}},
		{[]string{"status", "-o", "json"}, 0, []string{`"generation": 3`}},
		{[]string{"suspend", "web"}, 0, []string{"web suspended\n"}},
		{[]string{"why", "web"}, 0, []string{"is Waiting (Suspended)", "suspended nothing is applied"}},
		{[]string{"resume", "web"}, 0, []string{"web resumed\n"}},
		{[]string{"suspend"}, 0, []string{"all bundles suspended\n"}},
		{[]string{"status"}, 0, []string{"everything is suspended since"}},
		{[]string{"resume"}, 0, []string{"all bundles resumed\n"}},
		{[]string{"sync"}, 0, []string{"the agent looks now\n"}},
		{[]string{"sync", "shop"}, exitcode.NotFound, []string{"not on this cluster"}},
	}
	for _, test := range tests { // one after the other: they change what the next one sees
		code, stdout, stderr := command(t.Context(), append(test.args, "--config", file)...)
		text := stdout
		if test.code != 0 {
			text = stderr
		}
		text = strings.Join(strings.Fields(text), " ")
		for _, want := range test.want {
			if want = strings.TrimSpace(want); code != test.code || !strings.Contains(text, want) {
				t.Errorf("%v: exit %d, want %d and %q in\n%s%s", test.args, code, test.code, want, stdout, stderr)
			}
		}
	}
}

func TestCommandsWithoutAnAgent(t *testing.T) {
	t.Parallel()
	file := configured(t)
	spec, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t.Context(), "suspend", "web", "--config", file); code != exitcode.Usage || !strings.Contains(stderr, "no agent ever ran") {
		t.Errorf("suspend before the first run: exit %d\n%s", code, stderr)
	}
	if err := os.MkdirAll(spec.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t.Context(), "why", "web", "--config", file); code != exitcode.Unreachable || !strings.Contains(stderr, "pinnace-agent run") {
		t.Errorf("why: exit %d\n%s", code, stderr)
	}
	code, stdout, stderr := command(t.Context(), "suspend", "web", "--config", file)
	if code != 0 || !strings.Contains(stdout, "web suspended; no agent is running") {
		t.Errorf("suspend: exit %d\n%s%s", code, stdout, stderr)
	}
	state, err := agent.OpenState(spec.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	suspended, err := state.Suspended()
	if err := errors.Join(err, state.Close()); err != nil {
		t.Fatal(err)
	}
	if _, is := suspended.Bundles["web"]; !is {
		t.Errorf("suspended: %s", cmp.Diff(nil, suspended))
	}
}
