package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// TarBlock is what a tar's headers and contents are padded to.
	TarBlock = 512
	// TarEnd is how many zero bytes end a tar.
	TarEnd = 2 * TarBlock
	// MaxTarFile is the largest file whose header is one block in every tool's eyes: 8 GiB less a byte.
	MaxTarFile = 8<<30 - 1
)

// TarHeader returns the one block that stands before a regular file of an uncompressed tar: no time, no owner, one mode.
// Such a tar has the same bytes every time, and the place of each file is known before it is written.
func TarHeader(name string, size int64) ([]byte, error) {
	if _, err := newPaths(Limits{}.withDefaults()).file(name); err != nil {
		return nil, err
	}
	if size < 0 || size > MaxTarFile {
		return nil, tooLarge(name, "%d bytes, at most %d are allowed", size, int64(MaxTarFile))
	}
	var header bytes.Buffer
	err := tar.NewWriter(&header).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil || header.Len() != TarBlock {
		return nil, fmt.Errorf("tar header of %q: %d bytes: %w", name, header.Len(), errors.Join(err, ErrUnsafePath))
	}
	return header.Bytes(), nil
}

// TarPadded is how many bytes a file's content takes in a tar.
func TarPadded(size int64) int64 { return (size + TarBlock - 1) / TarBlock * TarBlock }

// entries calls visit for each regular file until the end of the archive, and refuses what [Walk] refuses.
func entries(archive *tar.Reader, limits Limits, visit func(name string, size int64, content io.Reader) error) error {
	seen := newPaths(limits)
	var unpacked int64
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return readError("", err)
		}
		name, err := checkHeader(header, seen)
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if header.Size < 0 || header.Size > limits.Unpacked-unpacked {
			return tooLarge(header.Name, "unpacks to more than %d bytes", limits.Unpacked)
		}
		unpacked += header.Size
		if err := visit(name, header.Size, archive); err != nil {
			return err
		}
	}
}

// WalkTar reads an uncompressed tar from its beginning to its end and calls visit for each regular file, in order, with
// its clean path, its size and its content, which visit reads as far as it wants. It refuses what [Walk] refuses: other
// than regular files and folders, unsafe and repeated paths, and what is beyond the limits.
func WalkTar(r io.Reader, limits Limits, visit func(name string, size int64, content io.Reader) error) error {
	limits = limits.withDefaults()
	packed := &bounded{r: r, left: limits.Packed, err: tooLarge("", "the archive has more than %d bytes", limits.Packed)}
	if err := entries(tar.NewReader(packed), limits, visit); err != nil {
		return err
	}
	// Behind the end only zeros may stand: another archive could hide there.
	rest := make([]byte, 32<<10)
	for {
		n, err := packed.Read(rest)
		if len(bytes.TrimLeft(rest[:n], "\x00")) > 0 {
			return damaged("", errors.New("there is more behind its end"))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return readError("", err)
		}
	}
}

// Gzip packs data, without a name or a time.
func Gzip(data []byte) ([]byte, error) {
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return packed.Bytes(), err
}

// Gunzip unpacks data of at most limit bytes.
func Gunzip(packed []byte, limit int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, readError("", err)
	}
	data, err := io.ReadAll(&bounded{r: r, left: limit, err: tooLarge("", "unpacks to more than %d bytes", limit)})
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, readError("", err)
	}
	return data, nil
}
