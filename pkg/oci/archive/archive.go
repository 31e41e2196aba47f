// Package archive writes tar+gzip archives that have the same bytes every time, and reads foreign ones without being
// harmed by them. It is the only place that opens archives.
//
// [Pack] and [PackFS] write: sorted paths, no times, no owners, one mode, no directories, gzip without name and time.
// [Walk], [Unpack] and [Extract] read: regular files only, with paths that mean the same on every file system, within
// [Limits]. What they refuse is an [Error] that is [ErrUnsafePath], [ErrTooLarge] or [ErrDamaged].
package archive

import (
	"errors"
	"fmt"
)

// Default bounds; see [Limits].
const (
	// DefaultPacked stops a registry that sends without end.
	DefaultPacked = 64 << 20
	// DefaultUnpacked stops bombs: gzip inflates a thousandfold, sparse files and tar headers even more.
	DefaultUnpacked = 512 << 20
	// DefaultFiles stops archives of millions of empty files, which use up inodes and memory, but hardly any bytes.
	DefaultFiles = 50_000
	// DefaultPathLength stops names that no file system stores and that fill logs.
	DefaultPathLength = 512
	// DefaultDepth stops folders nested so deeply that walking or deleting them fails.
	DefaultDepth = 32

	// maxSegment is what file systems store as one name.
	maxSegment = 255
)

// Limits bound what is read and written. A zero field means its default.
type Limits struct {
	Packed     int64 // bytes of the archive
	Unpacked   int64 // bytes of all files together, and of everything that gzip inflates
	Files      int   // regular files and folders
	PathLength int   // bytes of one path
	Depth      int   // segments of one path
}

func (l Limits) withDefaults() Limits {
	if l.Packed <= 0 {
		l.Packed = DefaultPacked
	}
	if l.Unpacked <= 0 {
		l.Unpacked = DefaultUnpacked
	}
	if l.Files <= 0 {
		l.Files = DefaultFiles
	}
	if l.PathLength <= 0 {
		l.PathLength = DefaultPathLength
	}
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	return l
}

// What an [Error] is.
var (
	ErrUnsafePath = errors.New("unsafe path")
	ErrTooLarge   = errors.New("too large")
	ErrDamaged    = errors.New("damaged archive")
)

// Error says why an archive was refused, and at which entry.
type Error struct {
	// Path is the entry's name as the archive has it; empty when no entry is concerned.
	Path string
	// Reason is for people and names the bound where there is one.
	Reason string
	// Err is ErrUnsafePath, ErrTooLarge or ErrDamaged.
	Err error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%v: %s", e.Err, e.Reason)
	}
	return fmt.Sprintf("%v: %q: %s", e.Err, e.Path, e.Reason)
}

func (e *Error) Unwrap() error { return e.Err }

func unsafePath(name, format string, args ...any) error {
	return &Error{Path: name, Reason: fmt.Sprintf(format, args...), Err: ErrUnsafePath}
}

func tooLarge(name, format string, args ...any) error {
	return &Error{Path: name, Reason: fmt.Sprintf(format, args...), Err: ErrTooLarge}
}

func damaged(name string, err error) error {
	return &Error{Path: name, Reason: err.Error(), Err: ErrDamaged}
}
