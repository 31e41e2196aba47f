package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Walk reads an archive and calls visit for each regular file, in the archive's order, with its clean path and
// content. Folders are checked, not visited. It stops at the first error; what was visited before may be part of an
// archive that is refused later.
func Walk(r io.Reader, limits Limits, visit func(name string, content []byte) error) error {
	limits = limits.withDefaults()
	packed := &bounded{r: r, left: limits.Packed, err: tooLarge("", "the archive has more than %d bytes", limits.Packed)}
	compressed, err := gzip.NewReader(packed)
	if err != nil {
		return readError("", err)
	}
	defer func() { _ = compressed.Close() }()
	// The margin lets headers and padding of the largest allowed content through: two blocks a file, 10 KiB at the end.
	inflated := &bounded{
		r: compressed, left: limits.Unpacked + int64(limits.Files)*2048 + 10<<10,
		err: tooLarge("", "unpacks to more than %d bytes", limits.Unpacked),
	}
	err = entries(tar.NewReader(inflated), limits, func(name string, size int64, r io.Reader) error {
		content, err := readContent(r, size)
		if err != nil {
			return readError(name, err)
		}
		return visit(name, content)
	})
	if err != nil {
		return err
	}
	// To the end, so that gzip checks its sum.
	if _, err := io.Copy(io.Discard, inflated); err != nil {
		return readError("", err)
	}
	return nil
}

func checkHeader(header *tar.Header, seen *paths) (string, error) {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return "", unsafePath(header.Name, "is a sparse file")
		}
	}
	switch header.Typeflag {
	case tar.TypeReg:
		if strings.HasSuffix(header.Name, "/") {
			return "", unsafePath(header.Name, "is a file with a folder's name")
		}
		return seen.file(header.Name)
	case tar.TypeDir:
		return seen.folder(header.Name)
	case tar.TypeSymlink:
		return "", unsafePath(header.Name, "is a symbolic link to %q", header.Linkname)
	case tar.TypeLink:
		return "", unsafePath(header.Name, "is a hard link to %q", header.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return "", unsafePath(header.Name, "is a device")
	}
	return "", unsafePath(header.Name, "has the unknown type %q", header.Typeflag)
}

// readContent grows with what arrives: a header's size alone allocates nothing much.
func readContent(r io.Reader, size int64) ([]byte, error) {
	var content bytes.Buffer
	content.Grow(int(min(size, 1<<20)))
	if _, err := io.CopyN(&content, r, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return content.Bytes(), nil
}

// Unpack reads a whole archive into memory: clean path to content.
func Unpack(r io.Reader, limits Limits) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := Walk(r, limits, func(name string, content []byte) error {
		files[name] = content
		return nil
	})
	if err != nil {
		return nil, err
	}
	return files, nil
}

// Extract writes an archive's files below dir, which must exist. Nothing is ever written outside of it or over a file
// that is there. After an error dir may hold a part: extract into a new folder and rename it.
func Extract(r io.Reader, limits Limits, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	defer func() { _ = root.Close() }()
	return Walk(r, limits, func(name string, content []byte) error {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return fmt.Errorf("extract %q: %w", name, err)
		}
		file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("extract %q: %w", name, err)
		}
		_, err = file.Write(content)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("extract %q: %w", name, err)
		}
		return nil
	})
}

func readError(name string, err error) error {
	if refused := (*Error)(nil); errors.As(err, &refused) {
		return err
	}
	return damaged(name, err)
}

// bounded fails with err once more than left bytes were read.
type bounded struct {
	r    io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.err
	}
	return n, err
}
