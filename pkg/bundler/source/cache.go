package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

const (
	// Checkouts that nobody used for so long are removed, but for the newest few.
	keepFor  = 24 * time.Hour
	keepLast = 3
	// checkoutMode hides private repositories from other users.
	checkoutMode = 0o700

	// Working folders, and objects that may be signed.
	workPrefix, objectPrefix = "tmp-", "obj-"
)

// cache keeps one repository's checkouts: <dir>/<hash of the repository>/<commit>. A checkout appears complete, by
// rename, so several processes may share it.
type cache struct{ dir, repository string }

func (c cache) folder() string {
	sum := sha256.Sum256([]byte(c.repository))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:8]))
}

func (c cache) lookup(commit string) (string, bool) {
	dir := filepath.Join(c.folder(), commit)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", false
	}
	// The time says when it was last used. Nothing depends on it but the cleaning.
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
	return dir, true
}

// signed returns the objects of a revision that was fetched before. They are checked when they are used.
func (c cache) signed(rev revision) (signed, error) {
	out := signed{commitHash: rev.commit, tagHash: rev.tag, tagName: rev.name.Short()}
	var err error
	if out.commit, err = c.object(rev.commit); err != nil {
		return out, err
	}
	if rev.tag != "" {
		out.tag, err = c.object(rev.tag)
	}
	return out, err
}

func (c cache) object(hash string) ([]byte, error) {
	file := filepath.Join(c.folder(), objectPrefix+hash)
	now := time.Now()
	_ = os.Chtimes(file, now, now)
	return os.ReadFile(file)
}

func (c cache) keepSigned(objects signed) error {
	for hash, data := range map[string][]byte{objects.commitHash: objects.commit, objects.tagHash: objects.tag} {
		if hash == "" {
			continue
		}
		if err := renameio.WriteFile(filepath.Join(c.folder(), objectPrefix+hash), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// fill calls fetch with an empty folder and keeps what it put into tree/ below that, under the commit it returns.
func (c cache) fill(fetch func(work string) (commit string, err error)) (dir, commit string, err error) {
	if err := os.MkdirAll(c.folder(), checkoutMode); err != nil {
		return "", "", fmt.Errorf("cache of checkouts: %w", err)
	}
	work, err := os.MkdirTemp(c.folder(), workPrefix)
	if err != nil {
		return "", "", fmt.Errorf("cache of checkouts: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if commit, err = fetch(work); err != nil {
		return "", "", err
	}
	dir = filepath.Join(c.folder(), commit)
	err = os.Rename(filepath.Join(work, treeDir), dir)
	if _, there := c.lookup(commit); err != nil && !there {
		return "", "", fmt.Errorf("cache of checkouts: %w", err)
	}
	c.clean(dir)
	return dir, commit, nil
}

// clean removes old checkouts and what crashed processes left. Failing to is no reason to fail.
func (c cache) clean(keep string) {
	entries, err := os.ReadDir(c.folder())
	if err != nil {
		return
	}
	type candidate struct {
		path string
		used time.Time
	}
	var old []candidate
	checkouts := 0
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return
			}
			continue
		}
		if !passing(entry.Name()) {
			checkouts++
		}
		path := filepath.Join(c.folder(), entry.Name())
		if path != keep && time.Since(info.ModTime()) > keepFor {
			old = append(old, candidate{path, info.ModTime()})
		}
	}
	slices.SortFunc(old, func(a, b candidate) int { return a.used.Compare(b.used) })
	for _, victim := range old {
		if !passing(filepath.Base(victim.path)) {
			if checkouts <= keepLast {
				continue
			}
			checkouts--
		}
		_ = os.RemoveAll(victim.path)
	}
}

// passing reports whether an entry is no checkout.
func passing(name string) bool {
	return strings.HasPrefix(name, workPrefix) || strings.HasPrefix(name, objectPrefix)
}
