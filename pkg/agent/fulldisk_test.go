//go:build linux

package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/agent"
)

// A full disk stops a new target before anything is applied, and what runs keeps running. With space again it comes.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	if err := syscall.Mount("tmpfs", w.dir, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skip("a small disk can only be mounted by root, as CI is")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(w.dir, 0); err != nil {
			t.Error(err)
		}
	})
	w.publish(target(1, w.bundle("web", "1")))
	w.sync()
	w.deployer.took()

	ballast := filepath.Join(w.dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk isn't full: %v", err)
	}
	w.publish(target(2, w.bundle("web", "2")))
	result := w.sync()
	if agent.ReasonOf(result.Problem, "") != agent.ReasonStateUnwritable || !strings.Contains(result.Problem.Error(), "free space") {
		t.Errorf("got problem %v, want %s that says to free space", result.Problem, agent.ReasonStateUnwritable)
	}
	if diff := cmp.Diff([]string{"1"}, w.deployer.text("web")); diff != "" || result.Report.Target.Generation != 1 {
		t.Errorf("generation %d is in force; runs (-want +got):\n%s", result.Report.Target.Generation, diff)
	}
	for _, call := range w.deployer.took() {
		if strings.HasPrefix(call, "remove") {
			t.Errorf("a full disk made the agent %s", call)
		}
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if result := w.sync(); result.Problem != nil {
		t.Errorf("with space again: %v", result.Problem)
	}
	if diff := cmp.Diff([]string{"2"}, w.deployer.text("web")); diff != "" {
		t.Errorf("with space again (-want +got):\n%s", diff)
	}
}
