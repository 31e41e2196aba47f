//go:build linux

package source_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// A full disk fails a checkout, leaves no half of one behind, and the next try starts anew.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			t.Skip("a small disk can only be mounted by root, as CI is")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk isn't full: %v", err)
	}
	forge := newForge(t, githttp.Options{})
	src := v1alpha1.Source{Name: "web", Git: &v1alpha1.GitSource{URL: forge.Repository("web")}}
	options := source.Options{CacheDir: filepath.Join(dir, "cache")}
	if _, err := source.Checkout(t.Context(), src, options); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), `source "web"`) {
		t.Fatalf("got %v, want no space for source web", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	tree, err := source.Checkout(t.Context(), src, options)
	if err != nil || tree.Cached {
		t.Fatalf("with space again: cached %v, %v", tree.Cached, err)
	}
	if content, err := os.ReadFile(filepath.Join(tree.Dir, "app", "a.yaml")); err != nil || string(content) != "two" {
		t.Errorf("got %q and %v", content, err)
	}
}
