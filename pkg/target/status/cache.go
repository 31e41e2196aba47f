package status

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// maxCache stops a damaged cache file that fills the memory: 100,000 large reports fit.
const maxCache = 1 << 30

// cacheVersion changes with the form of the file; another one is read as empty.
const cacheVersion = 1

// Cache remembers reports that were read and verified, by their digests, in one file. The file is as trusted as its
// folder: it belongs below the user's own cache folder.
type Cache struct {
	path string

	mu      sync.Mutex
	entries map[string]cached // by cluster
	changed bool
}

type cached struct {
	// Trusted binds the entry to the cluster and the key that it was verified with.
	Trusted string
	Report  Report
}

type cacheFile struct {
	Version int
	Entries map[string]cached
}

// OpenCache reads the cache in a file. An absent, foreign or damaged one is empty: it is only a cache.
func OpenCache(path string) *Cache {
	c := &Cache{path: path, entries: map[string]cached{}}
	file, err := os.Open(path)
	if err != nil {
		return c
	}
	defer func() { _ = file.Close() }()
	var content cacheFile
	if gob.NewDecoder(io.LimitReader(file, maxCache)).Decode(&content) == nil && content.Version == cacheVersion && content.Entries != nil {
		c.entries = content.Entries
	}
	return c
}

// Save writes the cache when something changed.
func (c *Cache) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep what was read: %w", err)
	}
	file, err := renameio.NewPendingFile(c.path, renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	defer func() { _ = file.Cleanup() }()
	if err := gob.NewEncoder(file).Encode(cacheFile{Version: cacheVersion, Entries: c.entries}); err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	c.changed = false
	return nil
}

// get returns the report with that digest, if it was verified with the key that the inventory has now.
func (c *Cache) get(published *v1alpha1.IndexCluster, digest string) (Report, bool) {
	c.mu.Lock()
	known, ok := c.entries[published.Name]
	c.mu.Unlock()
	if !ok || known.Report.Digest != digest || known.Trusted != trustedBy(published) {
		return Report{}, false
	}
	return known.Report, true
}

// replace remembers what was read, and forgets clusters that are gone.
func (c *Cache) replace(index v1alpha1.FleetIndex, reports []Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries := make(map[string]cached, len(reports))
	for i := range reports {
		if reports[i].Digest == "" || reports[i].Status == nil {
			continue // what is not trusted is looked at again
		}
		name := index.Clusters[i].Name
		before, known := c.entries[name]
		entries[name] = cached{Trusted: trustedBy(&index.Clusters[i]), Report: reports[i]}
		if !known || before.Report.Digest != reports[i].Digest || before.Trusted != entries[name].Trusted {
			c.changed = true
		}
	}
	c.changed = c.changed || len(entries) != len(c.entries)
	c.entries = entries
}
