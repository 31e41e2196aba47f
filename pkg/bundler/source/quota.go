package source

import (
	"errors"
	"io/fs"
	"sync/atomic"

	"github.com/go-git/go-billy/v5"
)

// errQuota stops a server that sends more than a repository may have.
var errQuota = errors.New("more bytes than a repository may have; split it")

// quotaFS is a file system that takes so many bytes and no more.
type quotaFS struct {
	billy.Filesystem
	left *atomic.Int64
}

func newQuotaFS(below billy.Filesystem, bytes int64) quotaFS {
	q := quotaFS{Filesystem: below, left: &atomic.Int64{}}
	q.left.Store(bytes)
	return q
}

func (q quotaFS) wrap(file billy.File, err error) (billy.File, error) {
	if err != nil {
		return nil, err
	}
	return quotaFile{file, q.left}, nil
}

func (q quotaFS) Create(name string) (billy.File, error) { return q.wrap(q.Filesystem.Create(name)) }

func (q quotaFS) OpenFile(name string, flag int, perm fs.FileMode) (billy.File, error) {
	return q.wrap(q.Filesystem.OpenFile(name, flag, perm))
}

func (q quotaFS) TempFile(dir, prefix string) (billy.File, error) {
	return q.wrap(q.Filesystem.TempFile(dir, prefix))
}

type quotaFile struct {
	billy.File
	left *atomic.Int64
}

func (f quotaFile) Write(p []byte) (int, error) {
	if f.left.Add(-int64(len(p))) < 0 {
		return 0, errQuota
	}
	return f.File.Write(p)
}
