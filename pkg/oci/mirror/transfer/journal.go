package transfer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Journal remembers on disk what a process that was killed has done: blobs that arrived, and uploads that were under way
// with the offset and the state of their hash. It only saves work: a journal that is lost, torn or wrong costs requests
// and bytes, never correctness, because registries check what they are sent. A nil Journal forgets everything. It may be
// used concurrently.
type Journal struct {
	mu       sync.Mutex
	file     *os.File
	done     map[string]bool
	sessions map[string]*sessionRecord
	address  string // host of the receiver, which is called name here; none when empty
	name     string
}

// record is a line of the journal.
type record struct {
	Done    string         `json:"done,omitempty"`
	Forget  string         `json:"forget,omitempty"`
	Session *sessionRecord `json:"session,omitempty"`
}

// sessionRecord is an upload that is under way.
type sessionRecord struct {
	Key         string       `json:"key"`
	Location    string       `json:"location"`
	ChunkSize   int64        `json:"chunkSize,omitempty"`
	Checkpoints []checkpoint `json:"checkpoints"` // oldest first
}

// checkpoint is how far the blob was hashed.
type checkpoint struct {
	Offset int64  `json:"offset"`
	Hash   []byte `json:"hash"`
}

// maxJournalLine stops a damaged journal whose line fills the memory.
const maxJournalLine = 1 << 20

// OpenJournal reads the journal in a file, or begins one.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{done: map[string]bool{}, sessions: map[string]*sessionRecord{}}
	if err := j.load(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	// A line that the last process was killed in ends here.
	if _, err := file.WriteString("\n"); err != nil {
		return nil, fmt.Errorf("open journal: %w", errors.Join(err, file.Close()))
	}
	j.file = file
	return j, nil
}

func (j *Journal) load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxJournalLine)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // torn
		}
		switch {
		case r.Done != "":
			j.done[r.Done] = true
			delete(j.sessions, r.Done)
		case r.Forget != "":
			delete(j.done, r.Forget)
		case r.Session != nil && r.Session.Location == "":
			delete(j.sessions, r.Session.Key)
		case r.Session != nil:
			j.sessions[r.Session.Key] = r.Session
		}
	}
	return nil // what can't be read is forgotten
}

// Rename makes the journal know a receiver by a name: one whose address is another each time, such as a registry that is
// started on a folder, on a free port.
func (j *Journal) Rename(address, name string) { j.address, j.name = address, name }

// renamed replaces the receiver's address, at the beginning of a key or as a URL's host, by its name, or back.
func (j *Journal) renamed(text string, back bool) string {
	from, to := j.address, j.name
	if back {
		from, to = to, from
	}
	if rest, ok := strings.CutPrefix(text, from+"/"); ok && j.address != "" {
		return to + "/" + rest
	}
	if scheme, rest, ok := strings.Cut(text, "://"+from+"/"); ok && j.address != "" {
		return scheme + "://" + to + "/" + rest
	}
	return text
}

func journalKey(repository string, blob digest.Digest) string {
	return repository + "@" + blob.String()
}

// Done says whether the blob arrived.
func (j *Journal) Done(repository string, blob digest.Digest) bool {
	if j == nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.done[j.renamed(journalKey(repository, blob), false)]
}

// SetDone remembers that the blob, or manifest, arrived.
func (j *Journal) SetDone(repository string, blob digest.Digest) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	key := j.renamed(journalKey(repository, blob), false)
	j.done[key] = true
	delete(j.sessions, key)
	j.write(record{Done: key})
}

// Forget takes back that a blob arrived: the registry says that it is not there.
func (j *Journal) Forget(repository string, blob digest.Digest) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	key := j.renamed(journalKey(repository, blob), false)
	delete(j.done, key)
	j.write(record{Forget: key})
}

// Count is how many blobs and manifests arrived.
func (j *Journal) Count() int {
	if j == nil {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.done)
}

func (j *Journal) session(key string) *sessionRecord {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	record := j.sessions[j.renamed(key, false)]
	if record == nil {
		return nil
	}
	found := *record
	found.Location = j.renamed(found.Location, true)
	return &found
}

// setSession remembers an upload; one without a location is over.
func (j *Journal) setSession(s sessionRecord) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.Key, s.Location = j.renamed(s.Key, false), j.renamed(s.Location, false)
	if s.Location == "" {
		delete(j.sessions, s.Key)
	} else {
		j.sessions[s.Key] = &s
	}
	j.write(record{Session: &s})
}

// write appends a line. A journal that can't be written is no reason to stop.
func (j *Journal) write(r record) {
	if data, err := json.Marshal(r); err == nil && j.file != nil {
		_, _ = j.file.Write(append(data, '\n'))
	}
}

// Close closes the file.
func (j *Journal) Close() error {
	if j == nil || j.file == nil {
		return nil
	}
	return j.file.Close()
}
