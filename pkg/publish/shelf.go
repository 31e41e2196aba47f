package publish

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"pinnace.dev/pinnace/pkg/oci"
)

// maxShelved stops built bundles that fill the memory until they are pushed or compared: what is beyond goes to the disk.
const maxShelved = 64 << 20

// shelf keeps the layers of what was built, each content once. Its zero value is ready.
type shelf struct {
	folder string // where the disk is used; the system's for temporary files when empty
	limit  int64  // maxShelved when zero

	mu     sync.Mutex
	own    string // a folder below, once there is one
	held   int64
	memory map[string][]byte // by digest
	disk   map[string]bool
}

// take keeps the layer of a variant that was built, instead of the variant.
func (s *shelf) take(v *variant) error {
	if len(v.artifact.Layers) != 1 {
		return nil
	}
	layer := v.artifact.Layers[0]
	if err := s.put(v.index.LayerDigest, layer.Data); err != nil {
		return fmt.Errorf("bundle %q: keep what was built: %w", v.index.Name, err)
	}
	v.artifact.Layers = []oci.Blob{{MediaType: layer.MediaType}}
	v.shelf = s
	return nil
}

func (s *shelf) put(digest string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[digest] != nil || s.disk[digest] {
		return nil
	}
	limit := s.limit
	if limit == 0 {
		limit = maxShelved
	}
	if s.held+int64(len(data)) <= limit {
		if s.memory == nil {
			s.memory = map[string][]byte{}
		}
		s.memory[digest] = data
		s.held += int64(len(data))
		return nil
	}
	if s.own == "" {
		if s.folder != "" {
			if err := os.MkdirAll(s.folder, 0o700); err != nil {
				return err
			}
		}
		var err error
		if s.own, err = os.MkdirTemp(s.folder, "built-"); err != nil {
			return err
		}
		s.disk = map[string]bool{}
	}
	if err := os.WriteFile(s.file(digest), data, 0o600); err != nil {
		return err
	}
	s.disk[digest] = true
	return nil
}

func (s *shelf) file(digest string) string {
	return filepath.Join(s.own, strings.ReplaceAll(digest, ":", "-"))
}

// get returns a layer. What is pushed is checked against its digest there.
func (s *shelf) get(digest string) ([]byte, error) {
	s.mu.Lock()
	data, file := s.memory[digest], s.file(digest)
	s.mu.Unlock()
	if data != nil {
		return data, nil
	}
	return os.ReadFile(file)
}

// close forgets everything.
func (s *shelf) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != "" {
		_ = os.RemoveAll(s.own) // in the cache, or among temporary files
	}
	s.own, s.memory, s.disk, s.held = "", nil, nil, 0
}
