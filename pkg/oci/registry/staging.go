package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	storagemiddleware "github.com/distribution/distribution/v3/registry/storage/driver/middleware"
)

const (
	// maxStaged stops an upload that fills the memory; almost all that Pinnace pushes is smaller.
	maxStaged = 1 << 20
	// maxStagedTogether stops many uploads that fill the memory: whoever may push may begin as many as he likes.
	maxStagedTogether = 64 << 20
	// maxUploads stops uploads that are begun, hold nothing and are never finished.
	maxUploads = 1024
	// stagedFor is how long one stays in memory that nobody goes on with.
	stagedFor = 10 * time.Minute
)

// staging keeps small uploads in memory until they are whole. On a disk each would be some ten files and folders that
// live for milliseconds, synced one by one: most of what a push of a small blob costs. What is whole is written once,
// and synced, before its sender is told. What grows large, or waits for long, goes to the disk as ever, and so does what
// was sent when the registry stops; only when it is killed small uploads are begun anew. Nor is a manifest's link written
// for each of its tags.
type staging struct {
	driver.StorageDriver
	// writtenFor is how long a manifest's link is not written again.
	writtenFor time.Duration

	mu      sync.Mutex
	uploads map[string]*upload // by their folder
	size    int
	swept   time.Time
}

// upload is what was sent of a blob, and distribution's notes about it.
type upload struct {
	mu      sync.Mutex
	files   map[string][]byte // by path; nil when it is on the disk
	size    int
	touched time.Time
}

const stagingName = "pinnace-staging"

// registerStaging makes the middleware known to distribution, which finds it by name.
var registerStaging = sync.OnceValue(func() error {
	return storagemiddleware.Register(stagingName, func(_ context.Context, below driver.StorageDriver, options map[string]any) (driver.StorageDriver, error) {
		s, ok := options[stagingName].(*staging)
		if !ok {
			return nil, errors.New("there is no staging")
		}
		s.StorageDriver = below
		return s, nil
	})
})

// stage puts a staging before the registry's storage, of which grace is how long a collection leaves alone what came.
func stage(config *configuration.Configuration, grace time.Duration) (*staging, error) {
	if err := registerStaging(); err != nil {
		return nil, err
	}
	s := &staging{uploads: map[string]*upload{}, writtenFor: grace / 10}
	config.Middleware["storage"] = []configuration.Middleware{{
		Name: stagingName, Options: configuration.Parameters{stagingName: s},
	}}
	return s, nil
}

// uploadFolder returns the folder of an upload that a path is in.
func uploadFolder(path string) (string, bool) {
	const uploads = "/_uploads/"
	at := strings.LastIndex(path, uploads)
	if at < 0 {
		return "", false
	}
	id, _, _ := strings.Cut(path[at+len(uploads):], "/")
	return path[:at+len(uploads)+len(id)], id != ""
}

// find returns the upload in memory that a path belongs to, locked; nil when there is none.
func (s *staging) find(path string) *upload {
	folder, is := uploadFolder(path)
	if !is {
		return nil
	}
	s.mu.Lock()
	u := s.uploads[folder]
	s.mu.Unlock()
	if u == nil {
		return nil
	}
	u.mu.Lock()
	if u.files == nil {
		u.mu.Unlock()
		return nil
	}
	u.touched = time.Now()
	return u
}

// begin makes room for a new upload; nil when there is none.
func (s *staging) begin(file string) *upload {
	folder, is := uploadFolder(file)
	if !is || path.Base(file) != "startedat" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.uploads) >= maxUploads || s.uploads[folder] != nil {
		return nil
	}
	u := &upload{files: map[string][]byte{}, touched: time.Now()}
	s.uploads[folder] = u
	u.mu.Lock()
	return u
}

// grow takes memory; false when an upload has to go to the disk.
func (s *staging) grow(u *upload, by int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if by > 0 && (u.size+by > maxStaged || s.size+by > maxStagedTogether) {
		return false
	}
	u.size += by
	s.size += by
	return true
}

// forget gives the memory back of an upload that is locked.
func (s *staging) forget(folder string, u *upload) {
	u.files = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= u.size
	delete(s.uploads, folder)
}

// unload writes an upload that is locked to the disk.
func (s *staging) unload(ctx context.Context, folder string, u *upload) error {
	for file, content := range u.files {
		if err := s.StorageDriver.PutContent(ctx, file, content); err != nil {
			return fmt.Errorf("write upload to the disk: %w", err)
		}
	}
	s.forget(folder, u)
	return nil
}

// unloadIdle writes uploads to the disk that nobody went on with since.
func (s *staging) unloadIdle(ctx context.Context, since time.Time) error {
	var errs []error
	for folder, u := range s.all() {
		u.mu.Lock()
		if u.files != nil && u.touched.Before(since) {
			errs = append(errs, s.unload(ctx, folder, u))
		}
		u.mu.Unlock()
	}
	return errors.Join(errs...)
}

// sweep looks for idle uploads now and then.
func (s *staging) sweep(ctx context.Context) error {
	s.mu.Lock()
	due := time.Since(s.swept) > stagedFor
	if due {
		s.swept = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	return s.unloadIdle(ctx, time.Now().Add(-stagedFor))
}

// close writes to the disk what was sent and is not whole, so that it goes on after the registry was started anew.
// Uploads of which nothing came yet are begun anew as easily.
func (s *staging) close() error {
	for folder, u := range s.all() {
		u.mu.Lock()
		if u.files != nil && u.empty() {
			s.forget(folder, u)
		}
		u.mu.Unlock()
	}
	return s.unloadIdle(context.Background(), time.Now().Add(time.Hour))
}

// empty reports whether none of the blob was sent.
func (u *upload) empty() bool {
	for file, content := range u.files {
		if path.Base(file) == "data" && len(content) > 0 {
			return false
		}
	}
	return true
}

func (s *staging) all() map[string]*upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.uploads)
}

// PutContent begins an upload, or stores a note about one; everything else goes to the disk.
func (s *staging) PutContent(ctx context.Context, file string, content []byte) error {
	u := s.find(file)
	if u == nil {
		if err := s.sweep(ctx); err != nil {
			return err
		}
		u = s.begin(file)
	}
	if u == nil {
		if s.written(ctx, file, content) {
			return nil
		}
		return s.StorageDriver.PutContent(ctx, file, content)
	}
	defer u.mu.Unlock()
	if s.grow(u, len(content)-len(u.files[file])) {
		u.files[file] = bytes.Clone(content)
		return nil
	}
	folder, _ := uploadFolder(file)
	if err := s.unload(ctx, folder, u); err != nil {
		return err
	}
	return s.StorageDriver.PutContent(ctx, file, content)
}

// written reports whether a manifest's link was written just now: each tag that is pushed for a manifest writes it, and
// syncs it, again. One that is older is written, for a collection sees by it when the manifest came last.
func (s *staging) written(ctx context.Context, file string, content []byte) bool {
	if path.Base(file) != "link" || !strings.Contains(file, "/_manifests/revisions/") {
		return false
	}
	info, err := s.StorageDriver.Stat(ctx, file)
	if err != nil || time.Since(info.ModTime()) > s.writtenFor || info.Size() != int64(len(content)) {
		return false
	}
	have, err := s.StorageDriver.GetContent(ctx, file)
	return err == nil && bytes.Equal(have, content)
}

// Writer writes an upload's data.
func (s *staging) Writer(ctx context.Context, file string, appends bool) (driver.FileWriter, error) {
	u := s.find(file)
	if u == nil {
		return s.StorageDriver.Writer(ctx, file, appends)
	}
	defer u.mu.Unlock()
	if !appends || u.files[file] == nil {
		s.grow(u, -len(u.files[file]))
		u.files[file] = []byte{}
	}
	return &stagedWriter{ctx: ctx, staging: s, file: file, size: int64(len(u.files[file]))}, nil
}

// Move writes what is whole to its place.
func (s *staging) Move(ctx context.Context, from, to string) error {
	u := s.find(from)
	if u == nil {
		return s.StorageDriver.Move(ctx, from, to)
	}
	defer u.mu.Unlock()
	content, ok := u.files[from]
	if !ok {
		return driver.PathNotFoundError{Path: from, DriverName: s.Name()}
	}
	if err := s.StorageDriver.PutContent(ctx, to, content); err != nil {
		return err
	}
	delete(u.files, from)
	s.grow(u, -len(content))
	return nil
}

// Delete removes an upload, or one of its files.
func (s *staging) Delete(ctx context.Context, file string) error {
	u := s.find(file)
	if u == nil {
		return s.StorageDriver.Delete(ctx, file)
	}
	defer u.mu.Unlock()
	if folder, _ := uploadFolder(file); folder == file {
		s.forget(folder, u)
		return nil
	}
	s.grow(u, -len(u.files[file]))
	delete(u.files, file)
	return nil
}

// content returns a file of an upload in memory; held is false when it is none.
func (s *staging) content(file string) (content []byte, held bool, err error) {
	u := s.find(file)
	if u == nil {
		return nil, false, nil
	}
	defer u.mu.Unlock()
	content, ok := u.files[file]
	if !ok {
		return nil, true, driver.PathNotFoundError{Path: file, DriverName: s.Name()}
	}
	return content, true, nil
}

func (s *staging) GetContent(ctx context.Context, file string) ([]byte, error) {
	if content, held, err := s.content(file); held {
		return bytes.Clone(content), err
	}
	return s.StorageDriver.GetContent(ctx, file)
}

func (s *staging) Reader(ctx context.Context, file string, offset int64) (io.ReadCloser, error) {
	content, held, err := s.content(file)
	switch {
	case !held:
		return s.StorageDriver.Reader(ctx, file, offset)
	case err != nil:
		return nil, err
	case offset < 0 || offset > int64(len(content)):
		return nil, driver.InvalidOffsetError{Path: file, Offset: offset, DriverName: s.Name()}
	}
	return io.NopCloser(bytes.NewReader(content[offset:])), nil
}

func (s *staging) Stat(ctx context.Context, file string) (driver.FileInfo, error) {
	content, held, err := s.content(file)
	switch {
	case !held:
		return s.StorageDriver.Stat(ctx, file)
	case err != nil:
		return nil, err
	}
	return driver.FileInfoInternal{FileInfoFields: driver.FileInfoFields{Path: file, Size: int64(len(content)), ModTime: time.Now()}}, nil
}

func (s *staging) List(ctx context.Context, folder string) ([]string, error) {
	u := s.find(folder)
	if u == nil {
		return s.StorageDriver.List(ctx, folder)
	}
	defer u.mu.Unlock()
	var names []string
	for file := range u.files {
		if below, is := strings.CutPrefix(file, folder+"/"); is {
			name, _, _ := strings.Cut(below, "/")
			names = append(names, folder+"/"+name)
		}
	}
	if names == nil {
		return nil, driver.PathNotFoundError{Path: folder, DriverName: s.Name()}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// stagedWriter writes to memory, and from when there is too much, to the disk. What was written is kept when it is
// closed, also without a commit: an upload may come in pieces.
type stagedWriter struct {
	ctx     context.Context //nolint:containedctx // driver.FileWriter's Write has none
	staging *staging
	file    string
	size    int64
	disk    driver.FileWriter
	closed  bool
}

func (w *stagedWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, errors.New("already closed")
	}
	if w.disk == nil {
		kept, err := w.keep(p)
		if err != nil {
			return 0, err
		}
		if kept {
			w.size += int64(len(p))
			return len(p), nil
		}
		if w.disk, err = w.staging.StorageDriver.Writer(w.ctx, w.file, true); err != nil {
			return 0, err
		}
	}
	return w.disk.Write(p)
}

// keep adds to what is in memory; false when the upload is on the disk now.
func (w *stagedWriter) keep(p []byte) (bool, error) {
	u := w.staging.find(w.file)
	if u == nil {
		return false, nil
	}
	defer u.mu.Unlock()
	if w.staging.grow(u, len(p)) {
		u.files[w.file] = append(u.files[w.file], p...)
		return true, nil
	}
	folder, _ := uploadFolder(w.file)
	return false, w.staging.unload(w.ctx, folder, u)
}

func (w *stagedWriter) Size() int64 {
	if w.disk != nil {
		return w.disk.Size()
	}
	return w.size
}

func (w *stagedWriter) Close() error {
	if w.closed {
		return errors.New("already closed")
	}
	w.closed = true
	if w.disk != nil {
		return w.disk.Close()
	}
	return nil
}

func (w *stagedWriter) Cancel(ctx context.Context) error {
	if w.closed {
		return errors.New("already closed")
	}
	w.closed = true
	if w.disk != nil {
		return w.disk.Cancel(ctx)
	}
	return w.staging.Delete(ctx, w.file)
}

func (w *stagedWriter) Commit(ctx context.Context) error {
	switch {
	case w.closed:
		return errors.New("already closed")
	case w.disk != nil:
		return w.disk.Commit(ctx)
	}
	return nil
}
