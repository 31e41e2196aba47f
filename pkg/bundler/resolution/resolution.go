// Package resolution remembers what names that may move were found to mean: ranges of charts' versions, images' tags,
// references of remote bases.
//
// A name is looked up once. What it meant is kept in the fleet index from one publish to the next, so that an unchanged
// input asks nobody and yields the same bytes, until [Options.Refresh] asks to look again.
package resolution

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// folderMode hides the names of private repositories from other users.
const folderMode = 0o700

// maxRecord stops a damaged record on disk that fills the memory.
const maxRecord = 64 << 10

// Options of a [Memory]. The zero value remembers nothing from before.
type Options struct {
	// Known is what the last publish resolved.
	Known []v1alpha1.Resolution
	// Refresh looks again at everything that is known.
	Refresh bool
	// Dir keeps what was found on this machine, for when nobody answers; nothing is kept when empty.
	Dir string
}

// Memory answers what names mean. It may be used concurrently.
type Memory struct {
	options Options
	known   map[string]v1alpha1.Resolution

	mu       sync.Mutex
	entries  map[string]*entry
	warnings []string
}

type entry struct {
	once  sync.Once
	found v1alpha1.Resolution
	err   error
}

// New returns a memory of what is known.
func New(options Options) *Memory {
	m := &Memory{options: options, known: map[string]v1alpha1.Resolution{}, entries: map[string]*entry{}}
	for _, known := range options.Known {
		m.known[key(known.Kind, known.Reference)] = known
	}
	return m
}

func key(kind, reference string) string { return kind + " " + reference }

// Name is something that may move.
type Name struct {
	// Kind and Reference tell it apart; Kind is one of v1alpha1's.
	Kind, Reference string
	// Fixed names are not supposed to move, such as an exact version: what this machine found once is believed.
	Fixed bool
}

// Resolve returns what a name means: as the last publish knew it, or what look finds, which is called once at most. Where
// nobody answers, what this machine found last is taken, and a warning kept.
func (m *Memory) Resolve(ctx context.Context, name Name, look func(context.Context) (v1alpha1.Resolution, error)) (v1alpha1.Resolution, error) {
	id := key(name.Kind, name.Reference)
	m.mu.Lock()
	e := m.entries[id]
	if e == nil {
		e = &entry{}
		m.entries[id] = e
	}
	m.mu.Unlock()
	e.once.Do(func() { e.found, e.err = m.resolve(ctx, name, look) })
	return e.found, e.err
}

func (m *Memory) resolve(ctx context.Context, name Name, look func(context.Context) (v1alpha1.Resolution, error)) (v1alpha1.Resolution, error) {
	known, isKnown := m.known[key(name.Kind, name.Reference)]
	if isKnown && !m.options.Refresh {
		return known, nil
	}
	local, isLocal := m.read(name)
	if isLocal && name.Fixed && !m.options.Refresh {
		return local, nil
	}
	found, err := look(ctx)
	if err != nil {
		if !isKnown {
			known, isKnown = local, isLocal
		}
		if !isKnown || ctx.Err() != nil || !errors.Is(err, oci.ErrUnreachable) {
			return v1alpha1.Resolution{}, err
		}
		m.Warn("%s %s is taken as it was found last: %v", name.Kind, name.Reference, err)
		return known, nil
	}
	found.Kind, found.Reference = name.Kind, name.Reference
	// Without the record only the next run without a network fails.
	_ = m.write(name, found)
	return found, nil
}

// Warn keeps a warning for people.
func (m *Memory) Warn(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.warnings = append(m.warnings, fmt.Sprintf(format, args...))
}

// Warnings returns what was taken from before because nobody answered, sorted.
func (m *Memory) Warnings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(slices.Values(m.warnings))
}

// Used returns what was asked for and found, sorted. keep is what an earlier publish knew and this one didn't have to ask
// for, because it built nothing from it; it is kept as it is.
func (m *Memory) Used(keep func(v1alpha1.Resolution) bool) []v1alpha1.Resolution {
	m.mu.Lock()
	defer m.mu.Unlock()
	var used []v1alpha1.Resolution
	for _, e := range m.entries {
		if e.err == nil && e.found.Reference != "" {
			used = append(used, e.found)
		}
	}
	for id, known := range m.known {
		if m.entries[id] == nil && keep != nil && keep(known) {
			used = append(used, known)
		}
	}
	slices.SortFunc(used, func(a, b v1alpha1.Resolution) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Reference, b.Reference))
	})
	return used
}

func (m *Memory) file(name Name) string {
	sum := sha256.Sum256([]byte(key(name.Kind, name.Reference)))
	return filepath.Join(m.options.Dir, hex.EncodeToString(sum[:16])+".json")
}

func (m *Memory) read(name Name) (v1alpha1.Resolution, bool) {
	var found v1alpha1.Resolution
	if m.options.Dir == "" {
		return found, false
	}
	info, err := os.Stat(m.file(name))
	if err != nil || info.Size() > maxRecord {
		return found, false
	}
	data, err := os.ReadFile(m.file(name))
	if err != nil || json.Unmarshal(data, &found) != nil {
		return found, false
	}
	return found, found.Kind == name.Kind && found.Reference == name.Reference
}

func (m *Memory) write(name Name, found v1alpha1.Resolution) error {
	if m.options.Dir == "" {
		return nil
	}
	data, err := json.Marshal(found)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.options.Dir, folderMode); err != nil {
		return err
	}
	return renameio.WriteFile(m.file(name), data, 0o600)
}
