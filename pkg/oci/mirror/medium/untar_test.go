package medium_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"pinnace.dev/pinnace/pkg/oci/archive"
)

func untar(t *testing.T, file, dir string) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	limits := archive.Limits{Packed: 1 << 30, Unpacked: 1 << 30}
	err = archive.WalkTar(in, limits, func(name string, _ int64, content io.Reader) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
