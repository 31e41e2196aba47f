// Package document reads the YAML documents that people write, strictly, so that every error names file, line and
// column and the act that mends it.
//
// [Read] splits a file into documents; [Document.Decode] fills a Go type from one of them by its json tags and reports
// everything that is wrong at once: unknown fields with the nearest known name, duplicate keys, wrong types.
// [Document.Errorf] lets later checks speak of a place in the file. [Decode] does all of it for a file that holds one
// document of one kind; [ReadForeign] reads a document of another tool, which names no kind.
//
// Aliases and merge keys are refused: they hide what a document says, and a few lines of them expand without end.
package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Bounds of what is read: files come from repositories that others write.
const (
	// MaxBytes stops files that fill the memory: a parsed node weighs about fifty times its text.
	MaxBytes = 4 << 20
	// MaxDocuments stops files of countless documents.
	MaxDocuments = 10_000
	// MaxDepth stops mappings and sequences nested so deeply that walking them exhausts the stack.
	MaxDepth = 64
)

// Document is one document of a file.
type Document struct {
	File       string
	APIVersion string
	Kind       string
	// Name is metadata.name, empty when there is none.
	Name string
	// Line is where the document begins, counted from 1.
	Line int

	root *yaml.Node // a mapping
	// place translates what Errorf is asked for; nil for documents that say what they are decoded into.
	place func(path string) string
}

// Read splits data, which file names in errors, into its documents. Empty documents are left out. The error is an
// [Errors]; every document must have an apiVersion and a kind, of whatever group.
func Read(file string, data []byte) ([]Document, error) {
	if len(data) > MaxBytes {
		return nil, tooLarge(file, data)
	}
	var documents []Document
	var findings Errors
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			findings = append(findings, syntaxError(file, err))
			break
		}
		if empty(&node) {
			continue
		}
		if len(documents) == MaxDocuments {
			findings = append(findings, Error{File: file, Line: node.Line, Column: node.Column, Message: fmt.Sprintf(
				"file has more than %d documents; split it", MaxDocuments)})
			break
		}
		document, err := newDocument(file, node.Content[0])
		var found Error
		if errors.As(err, &found) {
			findings = append(findings, found)
			continue
		}
		documents = append(documents, document)
	}
	return documents, findings.orNil()
}

func tooLarge(file string, data []byte) Errors {
	return Errors{{File: file, Line: 1, Column: 1, Message: fmt.Sprintf(
		"file has %d bytes, more than the %d that are read; split it", len(data), MaxBytes)}}
}

func empty(node *yaml.Node) bool {
	if node.Kind != yaml.DocumentNode || len(node.Content) == 0 {
		return true
	}
	content := node.Content[0]
	return content.Kind == yaml.ScalarNode && content.ShortTag() == "!!null" && content.Value == ""
}

func newDocument(file string, root *yaml.Node) (Document, error) {
	document := Document{File: file, Line: root.Line, root: root}
	if root.Kind != yaml.MappingNode {
		return document, document.at(root, "expected a document that begins with apiVersion: and kind:, got %s", describe(root))
	}
	for _, field := range []struct {
		key     string
		into    *string
		example string
	}{
		{"apiVersion", &document.APIVersion, v1alpha1.APIVersion},
		{"kind", &document.Kind, v1alpha1.KindBundle},
	} {
		_, value := lookup(root, field.key)
		if value == nil {
			return document, document.at(root, "%s is missing; add a line such as %s: %s", field.key, field.key, field.example)
		}
		if !isString(value) || value.Value == "" {
			return document, document.at(value, "%s must be a string such as %s, got %s", field.key, field.example, describe(value))
		}
		*field.into = value.Value
	}
	if _, metadata := lookup(root, "metadata"); metadata != nil {
		if _, name := lookup(metadata, "name"); name != nil && isString(name) {
			document.Name = name.Value
		}
	}
	return document, nil
}

// Decode reads the only document of a file and fills a T. The document must be of Pinnace's apiVersion and of that kind.
func Decode[T any](file string, data []byte, kind string) (T, Document, error) {
	var value T
	documents, err := Read(file, data)
	if err != nil {
		return value, Document{}, err
	}
	if len(documents) == 0 {
		return value, Document{}, Errors{{File: file, Line: 1, Column: 1, Message: fmt.Sprintf(
			"file is empty; expected a document with apiVersion: %s and kind: %s", v1alpha1.APIVersion, kind)}}
	}
	document := documents[0]
	if len(documents) > 1 {
		second := documents[1]
		return value, document, second.Errorf("", "file holds %d documents; expected one of kind %s only", len(documents), kind)
	}
	if err := document.Expect(kind); err != nil {
		return value, document, err
	}
	return value, document, document.Decode(&value)
}

// ReadForeign reads the only document of a file that another tool defined and that has no apiVersion and kind. name is
// its kind, for people. An empty file is an empty document.
func ReadForeign(file string, data []byte, name string) (Document, error) {
	if len(data) > MaxBytes {
		return Document{}, tooLarge(file, data)
	}
	document := Document{File: file, Kind: name, Line: 1, root: &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for found := false; ; {
		var node yaml.Node
		err := decoder.Decode(&node)
		switch {
		case errors.Is(err, io.EOF):
			return document, nil
		case err != nil:
			return Document{}, Errors{syntaxError(file, err)}
		case empty(&node):
			continue
		case found:
			return Document{}, document.at(node.Content[0], "file holds a second document; expected one")
		case node.Content[0].Kind != yaml.MappingNode:
			return Document{}, document.at(node.Content[0], "expected a mapping, got %s", describe(node.Content[0]))
		}
		document.root, document.Line, found = node.Content[0], node.Content[0].Line, true
	}
}

// WithPlaces returns the document with paths that Errorf translates first: for one that was decoded into a type of
// another shape than the file has.
func (d Document) WithPlaces(place func(path string) string) Document {
	d.place = place
	return d
}

// Expect returns an error unless the document has Pinnace's apiVersion and one of the kinds.
func (d Document) Expect(kinds ...string) error {
	if d.APIVersion != v1alpha1.APIVersion {
		return d.Errorf("apiVersion", "unknown apiVersion %q; expected %q", d.APIVersion, v1alpha1.APIVersion)
	}
	if slices.Contains(kinds, d.Kind) {
		return nil
	}
	return d.Errorf("kind", "kind %q is not expected here; expected %s", d.Kind, strings.Join(kinds, " or "))
}

// Errorf returns an [Error] at the place that path names, such as spec.sources[0].git.url or
// metadata.labels[app.kubernetes.io/name]; at its nearest existing ancestor when it is absent.
func (d Document) Errorf(path, format string, args ...any) error {
	if d.place != nil {
		path = d.place(path)
	}
	place := d.root
	node := d.root
	for _, step := range splitPath(path) {
		key, value := lookup(node, step)
		if value == nil {
			break
		}
		place, node = value, value
		// A block's own position is that of its first entry: its key says better where it stands.
		if key != nil && value.Kind != yaml.ScalarNode {
			place = key
		}
	}
	return d.at(place, format, args...)
}

func (d Document) at(node *yaml.Node, format string, args ...any) Error {
	line, column := 1, 1
	if node != nil {
		line, column = node.Line, node.Column
	}
	return Error{File: d.File, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
}

// lookup returns the key and value of a mapping's entry, or the item of a sequence with a nil key.
func lookup(node *yaml.Node, step string) (key, value *yaml.Node) {
	if node == nil {
		return nil, nil
	}
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i], node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return nil, node.Content[i]
		}
	default:
	}
	return nil, nil
}

// splitPath turns a.b[0].c[x.y] into a, b, 0, c, x.y.
func splitPath(path string) []string {
	var steps []string
	for path != "" {
		if rest, ok := strings.CutPrefix(path, "["); ok {
			step, after, _ := strings.Cut(rest, "]")
			steps = append(steps, step)
			path = strings.TrimPrefix(after, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			return append(steps, path)
		}
		steps = append(steps, path[:end])
		path = strings.TrimPrefix(path[end:], ".")
	}
	return steps
}

// syntaxPosition finds the line in the parser's message: it keeps it nowhere else.
var syntaxPosition = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func syntaxError(file string, err error) Error {
	message := err.Error()
	found := syntaxPosition.FindStringSubmatch(message)
	line := 1
	if len(found) == 2 {
		message = strings.TrimPrefix(message, found[0])
		if n, err := strconv.Atoi(found[1]); err == nil {
			line = max(n, 1)
		}
	}
	return Error{File: file, Line: line, Column: 1, Message: "not valid YAML: " + strings.ReplaceAll(message, "\n", " ")}
}
