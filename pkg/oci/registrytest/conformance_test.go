package registrytest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

func TestMemory(t *testing.T) {
	registrytest.Conformance(t, registrytest.Store{Registry: oci.NewMemory()})
}

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	open := func(t *testing.T) oci.Registry {
		t.Helper()
		layout, err := oci.OpenLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		return layout
	}
	registrytest.Conformance(t, registrytest.Store{Registry: open(t), Reopen: open})
}

func TestEmbedded(t *testing.T) {
	root := t.TempDir()
	var server *registry.Server
	restart := func(t *testing.T) oci.Registry {
		t.Helper()
		if server != nil {
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if server, err = registry.Start(registry.Options{Root: root}); err != nil {
			t.Fatal(err)
		}
		return open(t, server.Addr)
	}
	store := registrytest.Store{Registry: restart(t), Reopen: restart}
	t.Cleanup(func() { _ = server.Close() })
	registrytest.Conformance(t, store)
}

// Debian's docker-registry is old (2.8), has no referrers API and is the worst real case that people run.
func TestDebian(t *testing.T) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Log("LEFT OUT: Debian's docker-registry is not installed (apt-get install docker-registry)")
		return
	}
	config := filepath.Join(t.TempDir(), "config.yml")
	content := fmt.Sprintf("version: 0.1\nlog: {level: info}\nhttp: {addr: '127.0.0.1:0'}\n"+
		"storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\n", t.TempDir())
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var stop func()
	restart := func(t *testing.T) oci.Registry {
		t.Helper()
		if stop != nil {
			stop()
		}
		var addr string
		addr, stop = startDebian(t, program, config)
		return open(t, addr)
	}
	// Its filesystem driver truncates a file before it writes it again; version 3 renames.
	store := registrytest.Store{Registry: restart(t), Reopen: restart, TornRewrites: true}
	t.Cleanup(func() { stop() })
	registrytest.Conformance(t, store)
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// startDebian returns the address that the registry says it listens on.
func startDebian(t *testing.T, program, config string) (addr string, stop func()) {
	t.Helper()
	cmd := exec.Command(program, "serve", config)
	cmd.Env = []string{} // REGISTRY_… would change the configuration
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		_ = cmd.Wait() // it was told to end
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addr = m[1]
			break
		}
	}
	go func() {
		defer close(drained)
		for lines.Scan() {
		}
	}()
	if addr == "" {
		stop()
		t.Fatal("docker-registry ended before it listened")
	}
	return addr, stop
}

func open(t *testing.T, addr string) oci.Registry {
	t.Helper()
	opened, err := oci.Open(addr+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}
