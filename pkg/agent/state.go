package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Names in the state folder.
const (
	lockFile      = "lock"
	identityFile  = "identity"
	targetFile    = "target.json"
	contentDir    = "content"
	inventoryDir  = "inventory"
	recordSuffix  = ".json"
	statePerm     = 0o700
	stateFilePerm = 0o600
)

// maxStateFile bounds every file that is read back: a damaged disk must not exhaust memory.
const maxStateFile = 64 << 20

// State is the agent's folder: an OCI layout with verified content, the last good target, and one record per bundle
// that runs. Every write is atomic and durable; one process holds the folder at a time.
type State struct {
	dir  string
	lock *os.File
	// memory takes the files' place in simulated clusters; nil everywhere else.
	memory *memoryFiles
}

// Remembered is target.json.
type Remembered struct {
	// Known is the newest target ever accepted. It is written before anything of it is applied.
	Known Known `json:"known"`
	// Target is the manifest of the target in force; nil before the first. It lags behind Known while bundles of the
	// newest are still to be fetched.
	Target *ocispec.Descriptor `json:"target,omitempty"`
	// Seen is when the target in force was taken, Signers whose signatures counted then.
	Seen    time.Time `json:"seen,omitzero"`
	Signers []string  `json:"signers,omitempty"`
}

// Record is inventory/<bundle>.json: what was applied, and the objects that it left in the cluster.
type Record struct {
	Bundle v1alpha1.TargetBundle `json:"bundle"`
	// Generation is the target's that brought the bundle as it is.
	Generation int64 `json:"generation"`
	// Healthy is true once all of it was ready.
	Healthy bool `json:"healthy,omitempty"`
	// LastGood is the last version that was healthy, as long as this one is not.
	LastGood *Version `json:"lastGood,omitempty"`
	// Failed is the version that this one replaces again; it is not tried until the target changes.
	Failed *Failure `json:"failed,omitempty"`
	// Complete is false while an apply is under way or after one that failed: it is applied again.
	Complete bool `json:"complete"`
	// Inventory lists every object that may be there, whatever went wrong.
	Inventory apply.Inventory `json:"inventory,omitempty"`
}

// Version is a bundle as a target brought it.
type Version struct {
	Bundle     v1alpha1.TargetBundle `json:"bundle"`
	Generation int64                 `json:"generation"`
}

// Failure is a version that was rolled back.
type Failure struct {
	// Print identifies the version, with its values; Digest is its artifact's, Generation its target's.
	Print      string `json:"print"`
	Digest     string `json:"digest"`
	Generation int64  `json:"generation"`
	// To is the digest that runs instead.
	To      string    `json:"to"`
	Reason  Reason    `json:"reason"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
}

// OpenState creates the folder where absent and takes its lock; a second agent is refused.
func OpenState(dir string) (*State, error) {
	fail := func(subject string, reason Reason, mend string, err error) (*State, error) {
		return nil, &Error{Stage: StageState, Subject: subject, Reason: reason, Mend: mend, Err: err}
	}
	for _, folder := range []string{dir, filepath.Join(dir, contentDir), filepath.Join(dir, inventoryDir)} {
		if err := os.MkdirAll(folder, statePerm); err != nil {
			return fail(dir, ReasonStateUnwritable, "make the folder writable, or set another spec.stateDir", err)
		}
	}
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, stateFilePerm)
	if err != nil {
		return fail(path, ReasonStateUnwritable, "make the folder writable, or set another spec.stateDir", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 64))
		err = errors.Join(fmt.Errorf("another agent holds it (process %s)", strings.TrimSpace(string(holder))), file.Close())
		return fail(dir, ReasonStateLocked, "stop that one, or give this one its own spec.stateDir", err)
	}
	if err := writePID(file); err != nil {
		return fail(path, ReasonStateUnwritable, "free space on the disk", errors.Join(err, file.Close()))
	}
	s := &State{dir: dir, lock: file}
	s.sweep()
	return s, nil
}

// sweep removes what writes left that a crash cut off. What cannot be removed does no harm.
func (s *State) sweep() {
	for _, folder := range []string{s.dir, s.ContentDir(), filepath.Join(s.ContentDir(), "blobs", "sha256"), filepath.Join(s.dir, inventoryDir)} {
		entries, _ := os.ReadDir(folder)
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), ".") && entry.Type().IsRegular() {
				_ = os.Remove(filepath.Join(folder, entry.Name()))
			}
		}
	}
}

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// lockPoll is how often a standby tries the lock; it costs no request.
const lockPoll = time.Second

// AwaitState is OpenState of a standby on the same folder: it waits until the agent that holds it is gone. wait is
// called once, when there is one.
func AwaitState(ctx context.Context, dir string, wait func(holder error)) (*State, error) {
	for waiting := false; ; waiting = true {
		state, err := OpenState(dir)
		if ReasonOf(err, "") != ReasonStateLocked {
			return state, err
		}
		if !waiting {
			wait(err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// Close gives the lock back, also where a process that was just started has the file still open.
func (s *State) Close() error {
	if s.memory != nil {
		return nil
	}
	return errors.Join(unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close())
}

// ContentDir is the OCI layout's folder; empty when there is none.
func (s *State) ContentDir() string {
	if s.memory != nil {
		return ""
	}
	return filepath.Join(s.dir, contentDir)
}

// Identity returns a random name that this folder keeps for ever: it tells agents of one cluster apart.
func (s *State) Identity() (string, error) {
	path := filepath.Join(s.dir, identityFile)
	if data, err := os.ReadFile(path); err == nil && namePattern.Match(bytes.TrimSpace(data)) {
		return string(bytes.TrimSpace(data)), nil
	}
	name := strings.ToLower(rand.Text())
	return name, s.write(path, []byte(name+"\n"))
}

// Remembered reads target.json; the zero value when there is none yet.
func (s *State) Remembered() (Remembered, error) {
	var remembered Remembered
	err := s.read(filepath.Join(s.dir, targetFile), &remembered,
		"remove the file: the newest target is fetched again, and the cluster remembers its generation")
	return remembered, err
}

// Remember writes target.json.
func (s *State) Remember(remembered Remembered) error {
	return s.writeJSON(filepath.Join(s.dir, targetFile), remembered)
}

// Records reads every bundle's record, by name.
func (s *State) Records() (map[string]Record, error) {
	files, err := s.list(filepath.Join(s.dir, inventoryDir))
	if err != nil {
		return nil, s.unreadable(filepath.Join(s.dir, inventoryDir), err)
	}
	records := make(map[string]Record, len(files))
	for _, file := range files {
		name, isRecord := strings.CutSuffix(file, recordSuffix)
		if !isRecord || !namePattern.MatchString(name) {
			continue // a write that a crash cut off
		}
		var record Record
		err := s.read(s.recordPath(name), &record, "remove the file: the bundle is applied again, what left it since then stays")
		if err != nil {
			return nil, err
		}
		records[name] = record
	}
	return records, nil
}

// SaveRecord writes a bundle's record.
func (s *State) SaveRecord(record Record) error {
	return s.writeJSON(s.recordPath(record.Bundle.Name), record)
}

// DropRecord removes a bundle's record; an absent one is fine.
func (s *State) DropRecord(bundle string) error {
	if s.memory != nil {
		s.memory.drop(s.recordPath(bundle))
		return nil
	}
	if err := os.Remove(s.recordPath(bundle)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &Error{
			Stage: StageState, Subject: s.recordPath(bundle), Reason: ReasonStateUnwritable,
			Mend: "make the folder writable", Err: err,
		}
	}
	return syncDir(filepath.Join(s.dir, inventoryDir))
}

func (s *State) recordPath(bundle string) string {
	return filepath.Join(s.dir, inventoryDir, bundle+recordSuffix)
}

// list returns the names of a folder's files.
func (s *State) list(dir string) ([]string, error) {
	if s.memory != nil {
		return s.memory.names(dir), nil
	}
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, err
}

// read decodes a file strictly; an absent one leaves into alone.
func (s *State) read(path string, into any, mend string) error {
	if s.memory != nil {
		if data, found := s.memory.get(path); found {
			return json.Unmarshal(data, into)
		}
		return nil
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return s.unreadable(path, err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxStateFile+1))
	if err != nil {
		return s.unreadable(path, err)
	}
	if len(data) > maxStateFile {
		err = fmt.Errorf("larger than %d bytes", maxStateFile)
	} else {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(into)
	}
	if err != nil {
		return &Error{Stage: StageState, Subject: path, Reason: ReasonStateCorrupt, Mend: mend, Err: err}
	}
	return nil
}

func (s *State) unreadable(path string, err error) error {
	return &Error{
		Stage: StageState, Subject: path, Reason: ReasonStateCorrupt, Mend: "make it readable to the agent's user", Err: err,
	}
}

func (s *State) writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return s.write(path, append(data, '\n'))
}

// write replaces a file so that a power cut leaves the old or the new one.
func (s *State) write(path string, data []byte) error {
	if s.memory != nil {
		s.memory.put(path, data)
		return nil
	}
	err := renameio.WriteFile(path, data, stateFilePerm, renameio.WithTempDir(filepath.Dir(path)))
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return &Error{
			Stage: StageState, Subject: path, Reason: ReasonStateUnwritable,
			Mend: "free space on the disk and make the folder writable", Err: err,
		}
	}
	return nil
}

// syncDir makes a rename durable; renameio syncs the file only.
func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
