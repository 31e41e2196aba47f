package signing

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxPolicyFile stops a policy, key or trusted root that is somebody's disk image by mistake.
const maxPolicyFile = 4 << 20

// fingerprints say how the files looked that a policy was read from.
type fingerprints map[string]fs.FileInfo

// read reads a file and notes how it looks.
func (f fingerprints) read(path string) ([]byte, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f[path] = info
	data, err := io.ReadAll(io.LimitReader(file, maxPolicyFile+1))
	if err == nil && len(data) > maxPolicyFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxPolicyFile)
	}
	return data, err
}

// current says whether all files look as they did. A file that is replaced is another one, whatever its time says.
func (f fingerprints) current() bool {
	for path, before := range f {
		now, err := os.Stat(path)
		if err != nil || !os.SameFile(before, now) || now.Size() != before.Size() || !now.ModTime().Equal(before.ModTime()) {
			return false
		}
	}
	return true
}
