package render

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// errReadOnly answers everything that would write.
var errReadOnly = errors.New("the source is read-only")

// checkoutFS shows a checkout to Kustomize as a whole file system: / is the checkout. It cannot be written and nothing
// outside of it exists. Kustomizations are checked when they are read.
type checkoutFS struct {
	root *os.Root
	base string // the checkout's real path
	// refused is the first finding; Kustomize hides errors of some reads.
	refused error
	// made are files that are not in the checkout, by path: what a chart or a remote base renders.
	made map[string][]byte
	// top is the kustomization that gets the chart's objects; rendered the name it has for them.
	top, rendered string
	bases         map[string]Objects
}

var _ filesys.FileSystem = (*checkoutFS)(nil)

func newCheckoutFS(root *os.Root) (*checkoutFS, error) {
	base, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return nil, err
	}
	return &checkoutFS{root: root, base: base, made: map[string][]byte{}}, nil
}

// local returns a path as os.Root wants it.
func local(name string) string {
	if name = strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(name)), "/"); name == "" {
		return "."
	}
	return name
}

func (c *checkoutFS) ReadFile(name string) ([]byte, error) {
	name = local(name)
	if content, ok := c.made[name]; ok {
		return content, nil
	}
	content, err := readFile(c.root, name, maxFolderBytes)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !c.IsDir(name) {
			c.refuse(err)
		}
		return nil, err
	}
	if slices.Contains(KustomizationFiles, path.Base(name)) {
		if content, err = c.complete(name, content); err == nil {
			err = c.checkKustomization(name, content)
		}
		if err != nil {
			c.refuse(err)
			return nil, err
		}
	}
	return content, nil
}

func (c *checkoutFS) refuse(err error) {
	if c.refused == nil {
		c.refused = err
	}
}

func (c *checkoutFS) IsDir(name string) bool {
	info, err := c.root.Stat(local(name))
	return err == nil && info.IsDir()
}

func (c *checkoutFS) Exists(name string) bool { return c.stat(name) == nil }

func (c *checkoutFS) stat(name string) error {
	if _, ok := c.made[local(name)]; ok {
		return nil
	}
	if _, err := c.root.Stat(local(name)); err != nil {
		return readError(local(name), err)
	}
	return nil
}

func (c *checkoutFS) ReadDir(name string) ([]string, error) {
	opened, err := c.root.Open(local(name))
	if err != nil {
		return nil, readError(local(name), err)
	}
	defer func() { _ = opened.Close() }()
	names, err := opened.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// CleanedAbs follows symbolic links, as the paths in a kustomization are relative to where its file really is.
func (c *checkoutFS) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	if _, ok := c.made[local(name)]; ok {
		dir, _, err := c.CleanedAbs(path.Dir("/" + local(name)))
		return dir, path.Base(name), err
	}
	info, err := c.root.Stat(local(name))
	if err != nil {
		return "", "", readError(local(name), err)
	}
	real, err := filepath.EvalSymlinks(filepath.Join(c.base, filepath.FromSlash(local(name))))
	if err != nil {
		return "", "", readError(local(name), err)
	}
	relative, err := filepath.Rel(c.base, real)
	if err != nil || !filepath.IsLocal(relative) {
		return "", "", readError(local(name), fs.ErrPermission)
	}
	clean := path.Join("/", filepath.ToSlash(relative))
	if info.IsDir() {
		return filesys.ConfirmedDir(clean), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(clean)), path.Base(clean), nil
}

func (c *checkoutFS) Glob(pattern string) ([]string, error) {
	found, err := fs.Glob(c.root.FS(), local(pattern))
	for i := range found {
		found[i] = "/" + found[i]
	}
	return found, err
}

func (c *checkoutFS) Walk(name string, walk filepath.WalkFunc) error {
	return fs.WalkDir(c.root.FS(), local(name), func(found string, entry fs.DirEntry, err error) error {
		if err != nil {
			return walk("/"+found, nil, err)
		}
		info, err := entry.Info()
		return walk("/"+found, info, err)
	})
}

func (c *checkoutFS) Open(string) (filesys.File, error)   { return nil, errReadOnly }
func (c *checkoutFS) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (c *checkoutFS) Mkdir(string) error                  { return errReadOnly }
func (c *checkoutFS) MkdirAll(string) error               { return errReadOnly }
func (c *checkoutFS) RemoveAll(string) error              { return errReadOnly }
func (c *checkoutFS) WriteFile(string, []byte) error      { return errReadOnly }
