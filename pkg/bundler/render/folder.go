package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Bounds of one bundle's folder. The source is not ours: it may hold files made to exhaust the builder.
const (
	// maxFolderFiles stops folders of countless tiny files.
	maxFolderFiles = 20_000
	// maxFolderBytes stops folders that fill the memory, which holds all files of a bundle.
	maxFolderBytes = 512 << 20
	// maxFolderDepth stops folders nested so deeply that walking them fails, and loops of symbolic links.
	maxFolderDepth = 32
)

// lfsPointer begins the text that Git LFS leaves in place of a file.
var lfsPointer = []byte("version https://git-lfs.github.com/spec/")

// Folder is a folder inside a checkout. Symbolic links are followed within the checkout, never out of it.
type Folder struct {
	// Root is the checkout's absolute path.
	Root string
	// Path is the folder's, relative to Root and with slashes; "." is Root itself.
	Path string
}

// Join returns a folder or file's path below the folder, relative to Root. It fails when that is outside of Root.
func (f Folder) Join(name string) (string, error) {
	joined := path.Join(f.Path, name)
	if path.IsAbs(name) || !fs.ValidPath(joined) {
		return "", fmt.Errorf("%s: %q leads out of the source", f.Path, name)
	}
	return joined, nil
}

// Below returns a folder below this one, or beside it within the checkout.
func (f Folder) Below(name string) (Folder, error) {
	joined, err := f.Join(name)
	return Folder{Root: f.Root, Path: joined}, err
}

// File reads one file.
func (f Folder) File(name string) ([]byte, error) {
	joined, err := f.Join(name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(f.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	return readFile(root, joined, maxFolderBytes)
}

// Files reads all files below the folder: path relative to it to content. Folders named .git are left out.
func (f Folder) Files() (map[string][]byte, error) {
	root, err := os.OpenRoot(f.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	r := reader{root: root, files: map[string][]byte{}, left: maxFolderBytes}
	if err := r.folder(f.Path, "", 0); err != nil {
		return nil, err
	}
	return r.files, nil
}

type reader struct {
	root  *os.Root
	files map[string][]byte
	count int
	left  int64
}

func (r *reader) folder(full, relative string, depth int) error {
	if depth > maxFolderDepth {
		return fmt.Errorf("%s: more than %d folders deep", full, maxFolderDepth)
	}
	opened, err := r.root.Open(full)
	if err != nil {
		return readError(full, err)
	}
	defer func() { _ = opened.Close() }()
	entries, err := opened.ReadDir(-1)
	if err != nil {
		return readError(full, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, entry := range entries {
		if entry.Name() == ".git" {
			continue
		}
		if r.count++; r.count > maxFolderFiles {
			return fmt.Errorf("%s: more than %d files; split the bundle", full, maxFolderFiles)
		}
		name, below := path.Join(full, entry.Name()), path.Join(relative, entry.Name())
		info, err := r.root.Stat(name)
		if err != nil {
			return readError(name, err)
		}
		if info.IsDir() {
			if err := r.folder(name, below, depth+1); err != nil {
				return err
			}
			continue
		}
		content, err := readFile(r.root, name, r.left)
		if err != nil {
			return err
		}
		r.left -= int64(len(content))
		r.files[below] = content
	}
	return nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, readError(name, err)
	}
	// Before opening: a named pipe would block for ever.
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no regular file", name)
	}
	file, err := root.Open(name)
	if err != nil {
		return nil, readError(name, err)
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, readError(name, err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes in one bundle; move large files out of it", name, int64(maxFolderBytes))
	}
	if bytes.HasPrefix(content, lfsPointer) {
		return nil, fmt.Errorf("%s: is a Git LFS pointer, whose content is not fetched; store the file in Git itself", name)
	}
	return content, nil
}

// readError keeps errors free of the machine's paths.
func readError(name string, err error) error {
	cause := err
	if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
		cause = failed.Err
	}
	if info := new(*fs.PathError); errors.As(err, info) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %w; a symbolic link must stay inside of the source", name, cause)
	}
	return fmt.Errorf("%s: %w", name, cause)
}
