package e2e

import (
	"context"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// The things that befall one agent: outages, a second agent, a broken disk.
func TestAgent(t *testing.T) {
	const name = "ship-7"
	ctx := t.Context()
	cluster := newCluster(t, "ship-7")
	hash, err := bcrypt.GenerateFromPassword([]byte("pass"), bcrypt.MinCost)
	ok(t, err)
	users := filepath.Join(t.TempDir(), "users")
	ok(t, os.WriteFile(users, []byte("ci:"+string(hash)+"\n"), 0o600))
	hook, err := site.Loopback()
	ok(t, err)
	own, err := site.NewRegistry(ctx, "own", "--htpasswd", users, "--notify", "http://"+hook+harness.WebhookPath)
	ok(t, err)
	login := filepath.Join(t.TempDir(), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("ci:pass"))
	ok(t, os.WriteFile(login, []byte(`{"auths":{"`+own.Addr+`":{"auth":"`+auth+`"}}}`), 0o600))
	fleet := newFleet(t, own.Addr)
	publishPrivately := func(t *testing.T) harness.Publication {
		t.Helper()
		return publish(t, fleet, "--registry-config", login)
	}
	publishPrivately(t)

	withLogin := func(config *v1alpha1.AgentConfig) { config.Spec.Registries[0].DockerConfig = login }
	stranger := newAgent(t, fleet, cluster, harness.AgentOptions{Change: func(config *v1alpha1.AgentConfig) {
		config.Spec.StateDir += "-stranger"
	}})
	_, err = stranger.SyncOnce(ctx)
	wantExit(t, err, 4, own.Addr, "log in")

	// An hour between polls: only the webhook can bring anything in time.
	agent := newAgent(t, fleet, cluster, harness.AgentOptions{Interval: time.Hour, Webhook: hook, Change: withLogin})
	ok(t, agent.Start())
	t.Cleanup(agent.Kill)
	ok(t, cluster.WaitReady(ctx, harness.ExampleBundles[name]...))

	t.Run("webhook", func(t *testing.T) {
		ok(t, fleet.Write("bundles/sensors/marker.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: marker}\n"))
		commit(t, fleet, "A marker")
		publishPrivately(t)
		ok(t, harness.Until(t.Context(), "the marker", func(ctx context.Context) error {
			_, err := cluster.UID(ctx, &corev1.ConfigMap{}, "sensors", "marker")
			return err
		}))
	})
	t.Run("a second agent", func(t *testing.T) {
		second := newAgent(t, fleet, cluster, harness.AgentOptions{Change: withLogin})
		ok(t, second.Start())
		t.Cleanup(second.Kill)
		code, err := second.ExitCode(t.Context())
		ok(t, err)
		log, err := second.Log()
		ok(t, err)
		if code == 0 {
			t.Error("it ended with 0")
		}
		wantText(t, log, "a cluster has one agent")
		ok(t, cluster.WaitRecreated(t.Context(), &appsv1.Deployment{}, "sensors", "collector"))
	})
	t.Run("the same state folder twice", func(t *testing.T) {
		second := newAgent(t, fleet, cluster, harness.AgentOptions{Change: withLogin, StateDir: agent.StateDir})
		_, err := second.SyncOnce(t.Context())
		wantExit(t, err, 2, agent.StateDir)
	})
	t.Run("offline after a power cut", func(t *testing.T) {
		ok(t, own.Stop())
		agent.Kill()
		ok(t, agent.Start())
		ok(t, cluster.WaitRecreated(t.Context(), &appsv1.Deployment{}, "sensors", "collector"))
		ok(t, own.Start(t.Context()))
	})
	t.Run("corrupt content is fetched again", func(t *testing.T) {
		agent.Kill()
		damaged := 0
		ok(t, filepath.WalkDir(filepath.Join(agent.StateDir, "content", "blobs"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			damaged++
			return os.WriteFile(path, []byte("damaged"), 0o600)
		}))
		if damaged == 0 {
			t.Fatal("the state folder holds no content")
		}
		ok(t, agent.Start())
		ok(t, cluster.WaitRecreated(t.Context(), &appsv1.Deployment{}, "sensors", "collector"))
		ok(t, cluster.WaitReady(t.Context(), harness.ExampleBundles[name]...))
	})
	t.Run("corrupt memory is not guessed at", func(t *testing.T) {
		ok(t, agent.Stop())
		before, err := cluster.Versions(t.Context())
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(agent.StateDir, "target.json"), []byte("{"), 0o600))
		_, err = agent.SyncOnce(t.Context())
		wantExit(t, err, 7, "target.json")
		after, err := cluster.Versions(t.Context())
		ok(t, err)
		for object := range before {
			if after[object] == "" {
				t.Errorf("%s is gone", object)
			}
		}
	})
}
