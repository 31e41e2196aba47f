package archive

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// paths remembers what an archive named, so that no two entries meet in one file on any file system.
type paths struct {
	limits Limits
	count  int
	// seen maps a folded path to the file's name as written, or to "" for a folder.
	seen map[string]string
}

func newPaths(limits Limits) *paths {
	return &paths{limits: limits, seen: map[string]string{}}
}

// file checks a regular file's path and returns it clean.
func (p *paths) file(raw string) (string, error) {
	name, err := p.check(raw)
	if err != nil {
		return "", err
	}
	folded := fold(name)
	if other, taken := p.seen[folded]; taken {
		switch other {
		case "":
			return "", unsafePath(raw, "a folder has this name already")
		case name:
			return "", unsafePath(raw, "stands in the archive twice")
		}
		return "", unsafePath(raw, "differs from %q in case or in Unicode form only", other)
	}
	p.seen[folded] = name
	return name, p.parents(raw, folded)
}

// folder checks a folder's path. Folders may repeat; the archive's own root is "".
func (p *paths) folder(raw string) (string, error) {
	trimmed := strings.TrimRight(raw, "/")
	if raw != "" && (trimmed == "." || trimmed == "" && strings.HasPrefix(raw, "./")) {
		p.count++
		return "", p.countError(raw)
	}
	name, err := p.check(trimmed)
	if err != nil {
		return "", err
	}
	folded := fold(name)
	if other := p.seen[folded]; other != "" {
		return "", unsafePath(raw, "a file has this name already")
	}
	p.seen[folded] = ""
	return name, p.parents(raw, folded)
}

func (p *paths) parents(raw, folded string) error {
	for parent := path.Dir(folded); parent != "."; parent = path.Dir(parent) {
		if other := p.seen[parent]; other != "" {
			return unsafePath(raw, "lies below the file %q", other)
		}
		p.seen[parent] = ""
	}
	return nil
}

func (p *paths) countError(raw string) error {
	if p.count > p.limits.Files {
		return tooLarge(raw, "more than %d entries", p.limits.Files)
	}
	return nil
}

func (p *paths) check(raw string) (string, error) {
	p.count++
	if err := p.countError(raw); err != nil {
		return "", err
	}
	if len(raw) > p.limits.PathLength {
		return "", tooLarge(raw[:min(len(raw), 64)]+"…", "the path has more than %d bytes", p.limits.PathLength)
	}
	if !utf8.ValidString(raw) {
		return "", unsafePath(raw, "is not UTF-8")
	}
	// Tools that pack "." write ./name.
	name := strings.TrimPrefix(raw, "./")
	switch {
	case name == "":
		return "", unsafePath(raw, "is empty")
	case strings.HasPrefix(name, "/"):
		return "", unsafePath(raw, "is absolute")
	case strings.ContainsRune(name, '\\'):
		return "", unsafePath(raw, "has a backslash, which separates folders on Windows")
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return "", unsafePath(raw, "has a control character")
		}
	}
	segments := strings.Split(name, "/")
	if len(segments) > p.limits.Depth {
		return "", tooLarge(raw, "more than %d folders deep", p.limits.Depth)
	}
	for _, segment := range segments {
		switch {
		case segment == "..":
			return "", unsafePath(raw, "leaves its folder by ..")
		case segment == "" || segment == ".":
			return "", unsafePath(raw, "has an empty segment")
		case len(segment) > maxSegment:
			return "", tooLarge(raw[:64]+"…", "a name has more than %d bytes", maxSegment)
		}
	}
	// C:name is another drive on Windows.
	if len(segments[0]) >= 2 && segments[0][1] == ':' {
		return "", unsafePath(raw, "starts with a drive letter")
	}
	return name, nil
}

// fold returns what a file system that ignores case and Unicode form compares.
func fold(name string) string {
	return norm.NFC.String(strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, norm.NFC.String(name)))
}
