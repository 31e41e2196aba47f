package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"
)

// Pack writes the files, path to content, into an archive. A prefix such as a chart's name becomes the folder that
// holds them all; there is none when it is empty. Paths that [Walk] would refuse are refused here too.
func Pack(prefix string, files map[string][]byte, limits Limits) ([]byte, error) {
	limits = limits.withDefaults()
	seen := newPaths(limits)
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	var unpacked int64
	for _, name := range slices.Sorted(maps.Keys(files)) {
		full, err := seen.file(path.Join(prefix, name))
		if err != nil {
			return nil, err
		}
		if path.Join(prefix, name) != join(prefix, name) {
			return nil, unsafePath(name, "is not a clean path")
		}
		content := files[name]
		if unpacked += int64(len(content)); unpacked > limits.Unpacked {
			return nil, tooLarge(name, "the files have more than %d bytes together", limits.Unpacked)
		}
		if err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg,
			Name:     full,
			Size:     int64(len(content)),
			Mode:     0o644,
			ModTime:  time.Unix(0, 0),
		}); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
		if _, err := archive.Write(content); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if int64(out.Len()) > limits.Packed {
		return nil, tooLarge("", "the archive has more than %d bytes", limits.Packed)
	}
	return out.Bytes(), nil
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "/" + name
}

// PackFS packs the regular files of a file system. Anything but files and folders is refused.
func PackFS(prefix string, fsys fs.FS, limits Limits) ([]byte, error) {
	limits = limits.withDefaults()
	files := map[string][]byte{}
	var unpacked int64
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return unsafePath(name, "is no regular file")
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		// Checked before reading, so that a huge file is not read first.
		if unpacked += info.Size(); unpacked > limits.Unpacked {
			return tooLarge(name, "the files have more than %d bytes together", limits.Unpacked)
		}
		files[name], err = fs.ReadFile(fsys, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return Pack(prefix, files, limits)
}
