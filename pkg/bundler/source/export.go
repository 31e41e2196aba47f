package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// Bounds of one checkout.
const (
	// maxFiles stops repositories that use up the builder's inodes: a few objects that repeat in a tree of trees make
	// millions of files.
	maxFiles = 200_000
	// maxBytes stops repositories that fill the builder's disk in the same way.
	maxBytes = 4 << 30
	// maxLink stops symbolic links whose target fills the memory; it is what file systems store.
	maxLink = 4096
)

type link struct{ name, target string }

// export writes a commit's files to dir, which it makes. Links come last, so that no file is written through one.
func export(ctx context.Context, commit *object.Commit, dir string) error {
	if err := os.Mkdir(dir, checkoutMode); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	tree, err := commit.Tree()
	if err != nil {
		return fmt.Errorf("commit %s: %w", commit.Hash, err)
	}
	walker := object.NewTreeWalker(tree, true, nil)
	defer walker.Close()
	var links []link
	var files int
	var bytes int64
	for {
		name, entry, err := walker.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("commit %s: %w", commit.Hash, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := checkName(name, entry); err != nil {
			return err
		}
		if files++; files > maxFiles {
			return fmt.Errorf("more than %d files and folders; split the repository", maxFiles)
		}
		if entry.Mode == filemode.Dir {
			if err := root.Mkdir(name, 0o755); err != nil {
				return err
			}
			continue
		}
		blob, err := tree.TreeEntryFile(&entry)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if bytes += blob.Size; bytes > maxBytes {
			return fmt.Errorf("more than %d bytes; split the repository", int64(maxBytes))
		}
		if entry.Mode == filemode.Symlink {
			target, err := readLink(name, blob)
			if err != nil {
				return err
			}
			links = append(links, link{name, target})
			continue
		}
		if err := writeBlob(root, name, blob); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return makeLinks(root, links)
}

func checkName(name string, entry object.TreeEntry) error {
	base := entry.Name
	switch {
	case entry.Mode == filemode.Submodule:
		return fmt.Errorf("%s: is a submodule, which is not fetched; make it a source of its own, or copy its files", name)
	case base == "" || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") || strings.EqualFold(base, ".git"):
		return fmt.Errorf("%q: is no name for a file", name)
	}
	return nil
}

func writeBlob(root *os.Root, name string, blob *object.File) (err error) {
	reader, err := blob.Reader()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, reader)
	return errors.Join(err, file.Close())
}

func readLink(name string, blob *object.File) (string, error) {
	if blob.Size > maxLink {
		return "", fmt.Errorf("%s: is a symbolic link to more than %d bytes", name, maxLink)
	}
	target, err := blob.Contents()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if path.IsAbs(target) || filepath.IsAbs(target) {
		return "", leaves(name, target)
	}
	return target, nil
}

// makeLinks makes the links and then follows each, because a chain of links can leave where none of them does.
func makeLinks(root *os.Root, links []link) error {
	for _, l := range links {
		if err := root.Symlink(l.target, l.name); err != nil {
			return err
		}
	}
	base, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return err
	}
	for _, l := range links {
		if joined := path.Join(path.Dir(l.name), l.target); joined == ".." || strings.HasPrefix(joined, "../") {
			return leaves(l.name, l.target)
		}
		end, err := filepath.EvalSymlinks(filepath.Join(base, filepath.FromSlash(l.name)))
		if errors.Is(err, os.ErrNotExist) {
			// Leads nowhere: harmless until somebody reads it, which os.Root guards.
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: is a symbolic link to %q: %w", l.name, l.target, err)
		}
		if end != base && !strings.HasPrefix(end, base+string(filepath.Separator)) {
			return leaves(l.name, l.target)
		}
	}
	return nil
}

func leaves(name, target string) error {
	return fmt.Errorf("%s: is a symbolic link to %q, which leaves the repository; replace it by what it points at", name, target)
}
