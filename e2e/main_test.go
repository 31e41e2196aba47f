package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"pinnace.dev/pinnace/e2e/harness"
)

// What the tests share. Each has its own fleet, and its own cluster where it needs one.
var (
	site     *harness.Site
	registry *harness.Registry
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "set-up:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if site, err = harness.Start(ctx, harness.Options{Log: os.Stderr}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	if registry, err = site.NewRegistry(ctx, "registry"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// newFleet makes a copy of the example fleet, with a repository, a key and a prefix of its own.
func newFleet(t *testing.T, addr string) *harness.Fleet {
	t.Helper()
	fleet, err := site.NewFleet(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

// newCluster starts a cluster that ends with the test.
func newCluster(t *testing.T, name string) *harness.Cluster {
	t.Helper()
	cluster, err := site.NewCluster(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	return cluster
}

// newAgent sets an agent up; its log is shown when the test fails.
func newAgent(t *testing.T, fleet *harness.Fleet, cluster *harness.Cluster, opts harness.AgentOptions) *harness.Agent {
	t.Helper()
	agent, err := site.NewAgent(fleet, cluster, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, err := agent.Log(); err == nil && t.Failed() {
			t.Logf("log of the agent:\n%s", last(log, 6000))
		}
	})
	return agent
}

// start starts an agent that is stopped with the test.
func start(t *testing.T, agent *harness.Agent) {
	t.Helper()
	ok(t, agent.Start())
	t.Cleanup(agent.Kill)
}

func publish(t *testing.T, fleet *harness.Fleet, args ...string) harness.Publication {
	t.Helper()
	publication, err := fleet.Publish(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return publication
}

// commit brings changes of the working copy to the Git server.
func commit(t *testing.T, fleet *harness.Fleet, message string) {
	t.Helper()
	ok(t, fleet.Commit(t.Context(), message))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantExit checks a program's exit code and that what it said holds all texts.
func wantExit(t *testing.T, err error, code int, texts ...string) {
	t.Helper()
	var exit *harness.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("got %v, want exit code %d", err, code)
	}
	if exit.Code != code {
		t.Errorf("exit code: got %d, want %d; it said:\n%s", exit.Code, code, exit.Stderr)
	}
	wantText(t, exit.Stderr, texts...)
}

func wantText(t *testing.T, got string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !contains(got, text) {
			t.Errorf("%q is not in:\n%s", text, got)
		}
	}
}
