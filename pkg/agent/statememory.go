package agent

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// NewMemoryState returns a state that lives as long as the process, for simulated clusters: nothing is written, and its
// ContentDir is empty.
func NewMemoryState() *State { return &State{memory: &memoryFiles{files: map[string][]byte{}}} }

// dropFile removes a file that nobody needs; one that stays does no harm.
func (s *State) dropFile(path string) { _ = os.Remove(path) }

// memoryFiles stand for the state folder's.
type memoryFiles struct {
	mu    sync.Mutex
	files map[string][]byte
}

func (m *memoryFiles) get(path string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, found := m.files[path]
	return data, found
}

func (m *memoryFiles) put(path string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path] = bytes.Clone(data)
}

func (m *memoryFiles) drop(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, path)
}

// names lists the files of a folder.
func (m *memoryFiles) names(dir string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for path := range maps.Keys(m.files) {
		if name, found := strings.CutPrefix(path, dir+string(filepath.Separator)); found {
			names = append(names, name)
		}
	}
	return names
}
