package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Build makes the binaries with hack/controlplane/build.sh, unless they are there, and returns their folder. The first
// time takes minutes; processes that build at once wait for the first. What it does is written to log.
func Build(ctx context.Context, log io.Writer) (bin string, err error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	out := filepath.Join(root, ".cache", "controlplane")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(out, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // gives the lock up
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(root, "hack", "controlplane", "build.sh"), out)
	cmd.Stderr = &said
	if log != nil {
		cmd.Stderr = io.MultiWriter(&said, log)
	}
	printed, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build the control plane: %w\n%s", err, said.String())
	}
	// The link that the script prints may move on with another version; a running plane stays with its own.
	return filepath.EvalSymlinks(strings.TrimSpace(string(printed)))
}

// ModuleRoot is the folder of this module's go.mod, searched upwards from the working directory: tests run in their
// package's folder.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module pinnace.dev/pinnace\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod of pinnace.dev/pinnace above the working directory; run inside a checkout")
		}
		dir = parent
	}
}
