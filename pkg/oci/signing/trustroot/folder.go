package trustroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Folder is where the versions of a trust root are kept: <n>.root.json and <n>.targets.json, as TUF calls them. It can
// be carried on a medium, and kept in Git: nothing in it is secret.
type Folder struct {
	Dir string
	// Versions are those that have enough signatures, from the first one on.
	Versions []*Trust
	// Draft is the version after them, which lacks signatures; nil when there is none.
	Draft *Draft
}

// OpenFolder reads a folder, and verifies each version by the one before. An absent folder is an empty one.
func OpenFolder(dir string) (*Folder, error) {
	folder := &Folder{Dir: dir}
	for version := int64(1); version <= maxRotations; version++ {
		documents, err := folder.read(version)
		if errors.Is(err, fs.ErrNotExist) {
			return folder, nil
		}
		if err != nil {
			return nil, err
		}
		next, err := succeed(folder.Versions, documents)
		if err == nil {
			folder.Versions = append(folder.Versions, next)
			continue
		}
		if folder.Draft, err = ParseDraft(documents); err != nil {
			return nil, fmt.Errorf("%s: %w", folder.name(version, "root"), err)
		}
		if want := int64(len(folder.Versions) + 1); folder.Draft.Version() != want {
			return nil, fmt.Errorf("%s: %w: it says version %d", folder.name(want, "root"), ErrInvalid, folder.Draft.Version())
		}
		return folder, nil
	}
	return folder, nil
}

// Last is the newest version that has enough signatures; nil when there is none.
func (f *Folder) Last() *Trust {
	if len(f.Versions) == 0 {
		return nil
	}
	return f.Versions[len(f.Versions)-1]
}

// Save writes a draft, and counts it as a version when it has enough signatures.
func (f *Folder) Save(draft *Draft) error {
	documents, err := draft.Documents()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return fmt.Errorf("trust root: %w", err)
	}
	for kind, data := range map[string][]byte{"root": documents.Root, "targets": documents.Targets} {
		if err := renameio.WriteFile(f.name(draft.Version(), kind), append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("trust root: %w", err)
		}
	}
	f.Draft = draft
	if done, err := draft.Finish(f.Last()); err == nil {
		f.Versions, f.Draft = append(f.Versions, done), nil
	}
	return nil
}

func (f *Folder) name(version int64, kind string) string {
	return filepath.Join(f.Dir, fmt.Sprintf("%d.%s.json", version, kind))
}

func (f *Folder) read(version int64) (documents Documents, err error) {
	for kind, into := range map[string]*[]byte{"root": &documents.Root, "targets": &documents.Targets} {
		name := f.name(version, kind)
		info, err := os.Stat(name)
		if err != nil {
			return documents, fmt.Errorf("trust root: %w", err)
		}
		if info.Size() > MaxDocument {
			return documents, fmt.Errorf("%s: %w: %d bytes, at most %d are allowed", name, ErrInvalid, info.Size(), MaxDocument)
		}
		if *into, err = os.ReadFile(name); err != nil {
			return documents, fmt.Errorf("trust root: %w", err)
		}
	}
	return documents, nil
}
